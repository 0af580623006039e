//! What was done for a run and how long it took: a line of JSON each, which guest-agent sends to
//! the platform.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Result, RunFolder, iso_now};

/// The file's name in the run's folder.
pub const OPERATIONS: &str = "operations.jsonl";

/// Something that was done.
#[derive(Debug, Serialize)]
pub struct Operation<'a> {
    /// When it ended: ISO-8601.
    pub ts: String,
    /// What it was: `cli_execution`, `storage_download`, …
    pub action_type: &'a str,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether it succeeded.
    pub success: bool,
    /// Why not; what of it is secret is masked when it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The file that operations are appended to, by whichever of the guest's programs.
#[derive(Debug)]
pub struct OperationLog {
    file: File,
}

impl OperationLog {
    /// The log of the run with this folder.
    pub fn open(folder: &RunFolder) -> Result<Self> {
        Ok(Self { file: folder.append(OPERATIONS)? })
    }

    /// Appends one that began at `began` and just ended.
    pub fn record(&self, action_type: &str, began: Instant, error: Option<&str>) {
        self.record_duration(action_type, began.elapsed(), error);
    }

    /// Appends one that took `duration`.
    pub fn record_duration(&self, action_type: &str, duration: Duration, error: Option<&str>) {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let success = error.is_none();
        let operation = Operation { ts: iso_now(), action_type, duration_ms, success, error };
        let Ok(mut line) = serde_json::to_vec(&operation) else { return };
        line.push(b'\n');
        // In one call, so that lines of two programs do not mix. A full disk ends no run.
        if let Err(error) = (&self.file).write_all(&line) {
            log::debug!("an operation is not recorded; action={action_type} error={error}");
        }
    }
}
