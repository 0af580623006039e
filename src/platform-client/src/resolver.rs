//! Resolves host names in the calling thread; ureq's own resolver starts a thread per request.
//!
//! The system's resolver bounds the wait, with the time-outs of `/etc/resolv.conf`.

use std::net::ToSocketAddrs as _;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The capacity of [`ResolvedSocketAddrs`].
const MAX_ADDRESSES: usize = 16;

/// ureq's resolver by `getaddrinfo` in the calling thread.
#[derive(Debug)]
pub struct SystemResolver;

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
        found.take(MAX_ADDRESSES).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}
