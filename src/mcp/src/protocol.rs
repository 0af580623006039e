//! Versions of the protocol, and what the server says of itself.

use serde_json::{Map, Value, json};

use crate::message::RpcError;

/// The versions that are spoken, the newest first.
pub(crate) const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// How the tools are used, for models.
const INSTRUCTIONS: &str = "\
Commands and files live in sandboxes: virtual machines that are isolated from the user's computer and from each \
other. Nothing of the user's files is in them unless you write it there. Calls without `sandbox_id` share one \
sandbox, which the first of them creates; use create_sandbox only for a second one, another template or special \
settings. A sandbox and its files are gone when it was not used for its timeout, or after end_sandbox. Start \
servers with run_command and `background`, then call publish_port for a URL at which the user reaches them.";

/// The version for a client: its own if it is spoken here, else the newest.
pub(crate) fn negotiate(params: &Map<String, Value>) -> Result<&'static str, RpcError> {
    let Some(Value::String(wanted)) = params.get("protocolVersion") else {
        return Err(RpcError::invalid_params("`protocolVersion` is missing or not a string"));
    };
    let spoken = VERSIONS.into_iter().find(|version| version == wanted);
    Ok(spoken.unwrap_or(VERSIONS[0]))
}

/// The result of `initialize`.
pub(crate) fn hello(version: &str, program_version: &str) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
        "serverInfo": {
            "name": "sandbox-runner",
            "title": "Sandboxes",
            "version": program_version,
        },
        "instructions": INSTRUCTIONS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(version: &Value) -> Result<&'static str, RpcError> {
        negotiate(json!({"protocolVersion": version}).as_object().unwrap())
    }

    #[test]
    fn a_client_gets_its_version_or_the_newest() {
        assert_eq!(negotiated(&json!("2024-11-05")).unwrap(), "2024-11-05");
        assert_eq!(negotiated(&json!("2025-11-25")).unwrap(), "2025-11-25");
        assert_eq!(negotiated(&json!("2099-01-01")).unwrap(), "2025-11-25");
        assert_eq!(negotiated(&json!(7)).unwrap_err().code, -32602);
    }
}
