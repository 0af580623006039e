//! The end of a run as guest-agent leaves it in the run's folder.

use serde::{Deserialize, Serialize};

/// The content of `outcome.json`. The runner reads it as a hostile file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentOutcome {
    /// The CLI's exit code or that of a failure; guest-agent exits with it.
    pub exit_code: u8,
    /// Why the run failed, masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last acknowledged event before which none is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_sequence: Option<u64>,
    /// The CLI's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The checkpoint of a run that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_id: Option<String>,
    /// The partial checkpoint of a run that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_checkpoint_id: Option<String>,
    /// The number of warnings about data that was not saved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warnings: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_has_only_the_members_that_are_set() {
        let json = |outcome: &AgentOutcome| serde_json::to_string(outcome).unwrap();
        let mut outcome = AgentOutcome::default();
        assert_eq!(json(&outcome), r#"{"exitCode":0}"#);
        outcome.session_id = Some("s".into());
        outcome.warnings = 2;
        assert_eq!(json(&outcome), r#"{"exitCode":0,"sessionId":"s","warnings":2}"#);
        assert_eq!(serde_json::from_str::<AgentOutcome>(&json(&outcome)).unwrap(), outcome);
    }
}
