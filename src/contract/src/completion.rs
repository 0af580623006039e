//! The end of a run, as it is reported to the platform.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{RunId, exit_code};

/// The body of `POST /api/webhooks/agent/complete`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompleteRequest {
    /// The run.
    pub run_id: RunId,
    /// Its end.
    #[serde(flatten)]
    pub completion: Completion,
}

/// The error of a job whose runner was killed and reports it from its journal.
pub const RUNNER_DIED: &str = "the runner died";

/// The end of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// 0 if it succeeded.
    #[serde(deserialize_with = "exit_code::of_number")]
    pub exit_code: u8,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The number of the last event up to which the platform acknowledged all.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "sequence")]
    pub last_event_sequence: Option<u64>,
    /// The VM that it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Whether it reused the VM of its session.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub sandbox_reuse_result: Option<SandboxReuse>,
}

impl Completion {
    /// The end of a run that failed with this error.
    pub fn failed(error: String) -> Self {
        Self { exit_code: 1, error: Some(error), ..Self::default() }
    }
}

/// Whether a run reused the VM of its session, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are those of the contract")]
pub enum SandboxReuse {
    Reused,
    NoReuseKey,
    PoolMiss,
    ProfileMismatch,
    UnparkFailed,
}

/// A negative number is none.
fn sequence<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<i64>::deserialize(from)?.and_then(|number| u64::try_from(number).ok()))
}

/// A result that a later version of the contract adds is none.
fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SandboxReuse>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Lenient {
        Known(SandboxReuse),
        Unknown(IgnoredAny),
    }
    Ok(match Lenient::deserialize(from)? {
        Lenient::Known(reuse) => Some(reuse),
        Lenient::Unknown(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RUN: &str = "01234567-89ab-4def-8123-456789abcdef";

    fn completed(more: Value) -> Completion {
        let mut body = json!({"runId": RUN});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value::<CompleteRequest>(body).unwrap().completion
    }

    #[test]
    fn a_completion_has_the_contracts_members_in_order() {
        let completion = Completion {
            exit_code: 3,
            error: Some("lost events".into()),
            last_event_sequence: Some(7),
            sandbox_id: Some("vm".into()),
            sandbox_reuse_result: Some(SandboxReuse::NoReuseKey),
        };
        let request = CompleteRequest { run_id: RUN.parse().unwrap(), completion };
        let expected = format!(
            r#"{{"runId":"{RUN}","exitCode":3,"error":"lost events","lastEventSequence":7,"#
        ) + r#""sandboxId":"vm","sandboxReuseResult":"noReuseKey"}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), expected);
    }

    #[test]
    fn a_completion_without_optional_members_has_only_the_run_and_the_exit_code() {
        let request =
            CompleteRequest { run_id: RUN.parse().unwrap(), completion: Completion::default() };
        let expected = format!(r#"{{"runId":"{RUN}","exitCode":0}}"#);
        assert_eq!(serde_json::to_string(&request).unwrap(), expected);
    }

    #[test]
    fn null_members_are_absent_and_unknown_ones_are_ignored() {
        let members = json!({"exitCode": 0, "error": null, "lastEventSequence": null,
            "sandboxId": null, "sandboxReuseResult": null, "later": {}});
        assert_eq!(completed(members), Completion::default());
        let later = json!({"exitCode": 0, "sandboxReuseResult": "later"});
        assert_eq!(completed(later), Completion::default());
    }

    #[test]
    fn an_exit_code_that_is_no_byte_is_a_failure() {
        for code in [-1, 256, 1000] {
            assert_eq!(completed(json!({"exitCode": code})).exit_code, 255);
        }
        assert_eq!(completed(json!({"exitCode": 137})).exit_code, 137);
    }

    #[test]
    fn a_completion_without_an_exit_code_is_refused() {
        let body = json!({"runId": RUN});
        let error = serde_json::from_value::<CompleteRequest>(body).unwrap_err();
        assert_eq!(error.to_string(), "missing field `exitCode`");
    }
}
