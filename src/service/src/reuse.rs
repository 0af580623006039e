//! What the platform learns of VMs that are kept for their sessions.

use serde::Serialize;

/// A session with a parked VM, in the format of heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldSession {
    pub(super) session_id: String,
    pub(super) last_completed_at: u64,
    pub(super) reusable_sandbox: ReusableSandbox,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ReusableSandbox {
    pub(super) profile: String,
}
