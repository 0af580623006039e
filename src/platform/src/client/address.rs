//! The addresses of a platform: `https://platform.example:8480`, without a path.

use std::fmt;
use std::net::IpAddr;

use crate::{Error, Result};

/// A scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// The host and the port as they were written, for the Host header.
    pub(super) authority: String,
}

impl Address {
    /// Parses a URL, and splits its path with the parameters off.
    fn split(url: &str) -> Option<(Self, &str)> {
        let (scheme, rest) = url.split_once("://")?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return None;
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if !port.is_empty() => return None,
            None if is_tls => 443,
            None => 80,
        };
        let (host, authority) = (host.to_owned(), authority.to_owned());
        Some((Self { is_tls, host, port, authority }, path))
    }

    /// Parses the URL of a platform.
    pub(super) fn parse(url: &str) -> Result<Self> {
        match Self::split(url) {
            Some((address, "" | "/")) => Ok(address),
            // The URL may have a password: it is not repeated.
            _ => Err(Error::BadUrl),
        }
    }

    /// Whether nothing that is sent to it leaves this host.
    pub(super) fn is_loopback(&self) -> bool {
        let ip = self.host.parse::<IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Option<(bool, String, u16)> {
        let address = Address::parse(url).ok()?;
        Some((address.is_tls, address.host, address.port))
    }

    #[test]
    fn a_url_of_a_platform_has_a_scheme_a_host_and_perhaps_a_port() {
        let of = |is_tls, host: &str, port| Some((is_tls, host.to_owned(), port));
        assert_eq!(parsed("https://a.example"), of(true, "a.example", 443));
        assert_eq!(parsed("HTTP://10.0.0.1:8480/"), of(false, "10.0.0.1", 8480));
        assert_eq!(parsed("https://[::1]:1"), of(true, "::1", 1));
    }

    #[test]
    fn other_urls_are_rejected() {
        let bad = [
            "a.example",
            "ftp://a",
            "https://",
            "https://a/path",
            "https://a?x",
            "https://user:secret@a",
            "https://a:0",
            "https://a:99999",
            "https://[::1",
            "https://[a]",
            "https://[::1]x",
            "https://a b",
        ];
        assert_eq!(bad.map(parsed), [const { None }; 12]);
    }

    #[test]
    fn only_addresses_of_this_host_are_loopback() {
        let is_loopback = |url: &str| Address::parse(url).unwrap().is_loopback();
        assert!(
            ["http://localhost:1", "http://127.8.0.1", "http://[::1]"]
                .iter()
                .all(|url| is_loopback(url))
        );
        assert!(
            !["http://10.0.0.1", "http://localhost.example"].iter().any(|url| is_loopback(url))
        );
    }
}
