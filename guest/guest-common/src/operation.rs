//! The log of operations: what the guest's programs did for a run and how long it took. Each operation
//! is a line of JSON; guest-agent sends them to the platform.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use base::date::iso_now;
use contract::Operation;

use crate::{Result, RunFolder};

/// The file's name in the run's folder.
pub const OPERATIONS: &str = "operations.jsonl";

/// The file to which the guest's programs append operations.
#[derive(Debug)]
pub struct OperationLog {
    file: File,
}

impl OperationLog {
    /// Opens the log in the run's folder.
    pub fn open(folder: &RunFolder) -> Result<Self> {
        Ok(Self { file: folder.append(OPERATIONS)? })
    }

    /// Appends an operation that began at `began` and ends now.
    pub fn record(&self, action_type: &str, began: Instant, error: Option<&str>) {
        self.record_duration(action_type, began.elapsed(), error);
    }

    /// Appends an operation that took `duration` and ends now.
    pub fn record_duration(&self, action_type: &str, duration: Duration, error: Option<&str>) {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let success = error.is_none();
        let operation = Operation { ts: iso_now(), action_type, duration_ms, success, error };
        let Ok(mut line) = serde_json::to_vec(&operation) else { return };
        line.push(b'\n');
        // In one call, so that lines of two programs do not mix. A full disk must not end the run.
        if let Err(error) = (&self.file).write_all(&line) {
            log::debug!("cannot record an operation; action={action_type} error={error}");
        }
    }
}
