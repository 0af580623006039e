//! An operation of a run, for the platform's telemetry.

use serde::Serialize;

/// An operation that has ended: an entry of `sandboxOperations`.
#[derive(Debug, Serialize)]
pub struct Operation<'a> {
    /// When it ended: ISO-8601.
    pub ts: String,
    /// `cli_execution`, `storage_download`, …
    pub action_type: &'a str,
    /// Its duration.
    pub duration_ms: u64,
    /// Whether it succeeded.
    pub success: bool,
    /// Why it failed. Secrets in it are masked before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}
