//! The execution context: the platform's description of a claimed job.

use std::collections::BTreeMap;
use std::fmt;

use contract::RunId;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The description of a claimed job. It contains secrets, so `Debug` prints only its ID.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecutionContext {
    pub(crate) run_id: RunId,
    pub(crate) prompt: String,
    pub(crate) sandbox_token: String,
    pub(crate) cli_agent_type: String,
    /// Identifies the session whose parked VM the job may reuse.
    pub(crate) reuse_key: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) append_system_prompt: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) secret_values: Vec<String>,
    pub(crate) storage_manifest: Option<Value>,
    /// Where the guest uploads, if not to the platform. An extension of the contract.
    pub(crate) object_store_url: Option<String>,
    pub(crate) resume_session: Option<ResumeSession>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) debug_no_mock_claude: bool,
    pub(crate) api_start_time: Option<u64>,
    pub(crate) user_timezone: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) disallowed_tools: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) tools: Vec<String>,
    pub(crate) settings: Option<String>,
    pub(crate) feature_flags: Option<Value>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) vars: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) firewalls: Vec<Value>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) network_policies: BTreeMap<String, Value>,
    pub(crate) encrypted_secrets: Option<Value>,
    pub(crate) secret_connector_map: Option<Value>,
    pub(crate) held_secrets: Option<Value>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) capture_network_bodies: bool,
}

/// A session to resume.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResumeSession {
    pub(crate) session_id: String,
    pub(crate) session_history: Option<String>,
    pub(crate) history_ref: Option<HistoryRef>,
}

/// The location of a session's history.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryRef {
    pub(crate) hash: String,
    /// A presigned URL, which is a secret.
    pub(crate) url: String,
    pub(crate) encoding: Encoding,
    pub(crate) raw_size: u64,
    pub(crate) encoded_size: u64,
}

/// The compression of a history.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl fmt::Debug for ExecutionContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExecutionContext")
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}

/// Treats `null` like an absent field.
fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A context with only the required fields.
    pub(crate) fn minimal_context() -> Value {
        json!({
            "runId": "01234567-89ab-4def-8123-456789abcdef",
            "prompt": "do it",
            "sandboxToken": "token-of-the-run",
            "cliAgentType": "claude-code",
        })
    }

    #[test]
    fn null_fields_are_absent_and_unknown_fields_are_ignored() {
        let mut value = minimal_context();
        let lists = ["environment", "secretValues", "tools"];
        let others = ["debugNoMockClaude", "resumeSession", "captureNetworkBodies"];
        for name in lists.into_iter().chain(others) {
            value[name] = Value::Null;
        }
        value["later"] = json!({"x": 1});
        let context: ExecutionContext = serde_json::from_value(value).unwrap();
        assert!(context.environment.is_empty() && context.tools.is_empty());
        assert!(!context.capture_network_bodies);
        assert!(!format!("{context:?}").contains("token-of-the-run"));
        assert_eq!(context.run_id.short(), "01234567");
    }

    #[test]
    fn a_run_id_that_is_a_path_is_refused() {
        let mut value = minimal_context();
        value["runId"] = "../../etc/passwd".into();
        assert!(serde_json::from_value::<ExecutionContext>(value).is_err());
    }
}
