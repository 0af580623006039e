//! Names to addresses, in the thread that asks: ureq's own resolver starts a thread for each.
//!
//! What bounds the wait is the system's resolver, whose limits `/etc/resolv.conf` has.

use std::net::ToSocketAddrs as _;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// As many addresses of one name as there is room for.
const MOST: usize = 16;

#[derive(Debug)]
pub(crate) struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(Error::BadUri(String::new())),
        };
        let host = uri.host().ok_or_else(|| Error::BadUri(String::new()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, uri.port_u16().unwrap_or(default_port)).to_socket_addrs()?;
        let mut addresses = self.empty();
        found.take(MOST).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}
