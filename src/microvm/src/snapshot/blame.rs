//! Whose fault it is that no VM came out of a snapshot.
//!
//! A host that is starved may be the only reason why a guest is late, so a snapshot is blamed for that
//! only when it happens twice in a row. The first time is remembered by the file `late` in its folder,
//! as the second may be another process's; a guest that comes in time removes it.

use std::fs::{self, File};

use super::Snapshot;
use crate::Error;

pub(super) const LATE: &str = "late";

impl Snapshot {
    /// A guest came out of it in time.
    pub(crate) fn acquit(&self) {
        if self.was_late {
            let _ = fs::remove_file(self.file(LATE));
        }
    }

    /// No guest came out of it in time. Whether that is so for the second time in a row: of two that are
    /// late at once, none is the second.
    pub(crate) fn is_late_again(&self) -> bool {
        if let Err(error) = File::create(self.file(LATE)) {
            log::debug!("that a snapshot's guest was late is forgotten; error={error}");
        }
        self.was_late
    }
}

/// Whether a restore failed as the snapshot was removed, or another took its place, meanwhile.
pub(crate) fn is_gone(error: &Error) -> bool {
    match error {
        Error::File { source, .. } | Error::CloneDisk { source, .. } => {
            source.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    }
}

/// Whether a failed restore is to be blamed on the snapshot, rather than on what else a VM needs or
/// on somebody who ended it.
pub(crate) fn is_to_blame(error: &Error) -> bool {
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

/// Whether a restore failed only because its time was up.
pub(crate) fn is_late(error: &Error) -> bool {
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
    fn a_guest_that_is_only_late_is_told_from_one_that_is_broken() {
        let phase = vsock_host::Phase::Hello;
        let late = no_hello(vsock_host::Error::TimedOut { after: Duration::ZERO, phase });
        let broken = no_hello(vsock_host::Error::ListenerClosed);
        assert!(is_to_blame(&late) && is_late(&late));
        assert!(is_to_blame(&broken) && !is_late(&broken));
    }
}
