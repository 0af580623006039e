//! Whether a failed restore is the snapshot's fault.
//!
//! A guest that only comes late may be the fault of a busy host, so a snapshot is quarantined for that
//! only when two restores in a row time out. The first time-out is recorded by a marker file in the
//! snapshot's folder, as the second may be another process's; a successful restore removes it.

use std::fs::{self, File};

use super::Snapshot;
use crate::Error;

pub(super) const TIMEOUT_MARKER: &str = "restore-timed-out";

impl Snapshot {
    /// Records that a guest was restored in time.
    pub(crate) fn record_restore_ok(&self) {
        if self.previous_restore_timed_out {
            let _ = fs::remove_file(self.file(TIMEOUT_MARKER));
        }
    }

    /// Records that a restore timed out; returns whether the previous one did, too. Of two concurrent
    /// time-outs neither counts as the previous one.
    pub(crate) fn record_restore_timeout(&self) -> bool {
        if let Err(error) = File::create(self.file(TIMEOUT_MARKER)) {
            log::debug!("cannot record a snapshot's restore time-out; error={error}");
        }
        self.previous_restore_timed_out
    }
}

/// Whether a restore failed because the snapshot was removed or replaced meanwhile.
pub(crate) fn was_removed(error: &Error) -> bool {
    match error {
        Error::File { source, .. } | Error::CloneDisk { source, .. } => {
            source.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    }
}

/// Whether the snapshot caused a failed restore, rather than another resource of the VM, or a kill.
pub(crate) fn is_snapshot_fault(error: &Error) -> bool {
    match error {
        Error::Ended { status: process::Status::Signalled { signal, .. }, .. } => {
            i32::from(*signal) != libc::SIGKILL
        }
        Error::Monitor(_)
        | Error::Ended { .. }
        | Error::NoHello { .. }
        | Error::Boot { .. }
        | Error::Link(_) => true,
        _ => false,
    }
}

/// Whether a restore failed only by its time-out.
pub(crate) fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::NoHello { source: vsock_host::Error::TimedOut { .. }, .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn no_hello(source: vsock_host::Error) -> Error {
        Error::NoHello { console: String::new(), source }
    }

    #[test]
    fn a_restore_that_times_out_is_distinguished_from_one_that_breaks() {
        let phase = vsock_host::Phase::Hello;
        let late = no_hello(vsock_host::Error::TimedOut { after: Duration::ZERO, phase });
        let broken = no_hello(vsock_host::Error::ListenerClosed);
        assert!(is_snapshot_fault(&late) && is_timeout(&late));
        assert!(is_snapshot_fault(&broken) && !is_timeout(&broken));
    }
}
