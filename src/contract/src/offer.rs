//! A job that a runner may claim.

use serde::{Deserialize, Serialize};

use crate::RunId;

/// The `job` of a reply to `POST /api/runners/poll`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The job.
    pub run_id: RunId,
    /// The profile that it needs; any, without one.
    #[serde(rename = "experimentalProfile", skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The session that it continues.
    #[serde(rename = "cliAgentSessionId", skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Identifies the session whose parked VM it may reuse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_has_the_contracts_members() {
        let run = "01234567-89ab-4def-8123-456789abcdef";
        let only = format!(r#"{{"runId":"{run}"}}"#);
        let mut offer: Offer = serde_json::from_str(&only).unwrap();
        assert_eq!(serde_json::to_string(&offer).unwrap(), only);
        offer.profile = Some("large".into());
        offer.session = Some("s".into());
        offer.reuse_key = Some("k".into());
        let all = format!(
            r#"{{"runId":"{run}","experimentalProfile":"large","cliAgentSessionId":"s","reuseKey":"k"}}"#
        );
        assert_eq!(serde_json::to_string(&offer).unwrap(), all);
        assert_eq!(serde_json::from_str::<Offer>(&all).unwrap(), offer);
    }
}
