//! Ably's hosts.

use std::fmt;

use crate::{Error, Result};

/// The servers: one for connections, one for tokens, and others that do both when these fail.
#[derive(Debug, Clone)]
pub struct Hosts {
    realtime: Host,
    rest: Host,
    fallbacks: Vec<Host>,
}

/// A name or address, and a port if it is not the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// IPv6 addresses are without brackets.
    pub(crate) name: String,
    port: Option<u16>,
}

const PRIMARY: &str = "main.realtime.ably.net";
const FALLBACKS: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Hosts {
    /// Servers of one's own, `host` or `host:port` each, without fallbacks. TLS is used unless a host
    /// is exactly `localhost`, `127.0.0.1` or `[::1]`.
    pub fn new(realtime: &str, rest: &str) -> Result<Self> {
        Ok(Self {
            realtime: Host::parse(realtime)?,
            rest: Host::parse(rest)?,
            fallbacks: Vec::new(),
        })
    }

    /// Hosts that are tried in random order when the others fail.
    pub fn fallbacks(mut self, hosts: &[&str]) -> Result<Self> {
        self.fallbacks = hosts.iter().map(|host| Host::parse(host)).collect::<Result<_>>()?;
        Ok(self)
    }

    /// In the order in which a connection is tried.
    pub(crate) fn for_realtime(&self) -> Vec<&Host> {
        self.in_order(&self.realtime)
    }

    /// In the order in which a token is asked for.
    pub(crate) fn for_rest(&self) -> Vec<&Host> {
        self.in_order(&self.rest)
    }

    fn in_order<'a>(&'a self, first: &'a Host) -> Vec<&'a Host> {
        let mut others: Vec<&Host> = self.fallbacks.iter().collect();
        let mut order = vec![first];
        while !others.is_empty() {
            let next = crate::random::below(others.len());
            order.push(others.swap_remove(next));
        }
        order
    }
}

/// Ably's own hosts.
impl Default for Hosts {
    fn default() -> Self {
        let host = |name: String| Host { name, port: None };
        Self {
            realtime: host(PRIMARY.to_owned()),
            rest: host(PRIMARY.to_owned()),
            fallbacks: FALLBACKS
                .map(|letter| host(format!("main.{letter}.fallback.ably-realtime.com")))
                .to_vec(),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self> {
        let unusable = || Error::Host { host: text.to_owned() };
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, port) = rest.split_once(']').ok_or_else(unusable)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or_else(unusable)?),
                };
                name.parse::<std::net::Ipv6Addr>().map_err(|_| unusable())?;
                (name, port)
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(unusable());
        }
        let port = port.map(|port| port.parse().map_err(|_| unusable())).transpose()?;
        Ok(Self { name: name.to_owned(), port })
    }

    pub(crate) fn uses_tls(&self) -> bool {
        !matches!(self.name.as_str(), "localhost" | "127.0.0.1" | "::1")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.uses_tls() { 443 } else { 80 })
    }
}

/// As a Host header has it.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ablys_hosts_have_fallbacks() {
        let hosts = Hosts::default();
        let order = hosts.for_realtime();

        assert_eq!(order.len(), 6);
        assert_eq!(order[0].to_string(), "main.realtime.ably.net");
        assert!(order[1..].iter().all(|host| host.name.ends_with(".fallback.ably-realtime.com")));
    }

    #[test]
    fn a_configured_host_has_no_fallbacks() {
        let hosts = Hosts::new("realtime.ably.io", "rest.ably.io:8443").unwrap();

        assert_eq!(hosts.for_realtime().len(), 1);
        assert_eq!(hosts.for_rest()[0].port(), 8443);
    }

    #[test]
    fn only_this_machine_is_trusted_without_tls() {
        let tls = |text| Host::parse(text).unwrap().uses_tls();

        assert!(!tls("localhost:1") && !tls("127.0.0.1:1") && !tls("[::1]:1"));
        assert!(tls("127.0.0.2") && tls("localhost.example") && tls("[::2]"));
    }

    #[test]
    fn an_invalid_host_is_refused() {
        for text in ["", ":1", "a:b", "a/b", "a b", "u@h", "[::1", "[::1]1", "[x]", "a\r\nb:1"] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }
}
