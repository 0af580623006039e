//! How many descriptors this process may have.
//!
//! Each VM takes some, and the usual limit of 1024 is for programs that use select(2), which we do
//! not. Programs that we start get what they ask for anew.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Asks for as many as may be had.
pub(crate) fn ask_for_all() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        log::warn!("the limit on descriptors stays as it is; error={errno}");
    }
}
