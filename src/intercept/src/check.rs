//! Whether this host can intercept, tried out without leaving anything.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sandbox::{Cause, HostFilter, Interceptor, Registration};

use crate::{Authority, Config, Guard, Policy, Proxy};

/// Starts a proxy with a new authority, both with their files in `place`, and has it let an address in
/// that may reach nothing. It ends with the pass.
pub fn trial(
    program: Option<PathBuf>,
    place: &Path,
    address: Ipv4Addr,
    host_filter: Arc<dyn HostFilter>,
    deadline: Instant,
) -> Result<Box<dyn Registration>, Cause> {
    let authority = Authority::open(place)?;
    let runtime_dir = place.join("run");
    let proxy = Proxy::start(Config { program, runtime_dir, authority, roots: None, host_filter })?;
    Guard::new(&Arc::new(proxy), Policy::none()).register(address, deadline)
}
