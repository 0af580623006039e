//! What only the guest's programs share: the files of a run.
//!
//! | to do | use |
//! |---|---|
//! | use the private files of a run | [`RunFolder`] |
//! | record how long something took, for guest-agent to report | [`OperationLog`] |

mod error;
mod folder;
mod operation;

pub use error::{Error, Result};
pub use folder::{Draft, RunFolder, allocate};
pub use operation::{OPERATIONS, OperationLog};

/// Whether lines of this log target may be logged: only those of our programs. The HTTP library logs
/// URLs and whole requests with their tokens.
pub fn may_be_logged(target: &str) -> bool {
    ["guest_", "platform_client"].iter().any(|ours| target.starts_with(ours))
}
