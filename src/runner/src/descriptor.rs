//! Raises RLIMIT_NOFILE to its hard limit.
//!
//! Each VM needs several descriptors. The usual soft limit of 1024 protects programs that use
//! select(2), which this one does not.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        log::warn!("cannot raise the limit of descriptors; error={errno}");
    }
}
