//! Tests whether this host can intercept, and leaves nothing behind.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sandbox::{Cause, HostFilter, Interceptor, Registration};

use crate::{CertificateAuthority, InterceptionConfig, Policy, Proxy, ProxyConfig};

/// Starts a proxy with a new authority, both with their files in `place`, and registers an address that may
/// reach nothing. Dropping the registration ends the proxy.
pub fn probe(
    program: Option<PathBuf>,
    place: &Path,
    address: Ipv4Addr,
    host_filter: Arc<dyn HostFilter>,
    deadline: Instant,
) -> Result<Box<dyn Registration>, Cause> {
    let authority = CertificateAuthority::open(place)?;
    let runtime_dir = place.join("run");
    let proxy =
        Proxy::start(ProxyConfig { program, runtime_dir, authority, roots: None, host_filter })?;
    InterceptionConfig::new(&Arc::new(proxy), Policy::none()).register(address, deadline)
}
