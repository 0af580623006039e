//! The hosts of a policy that is restricted to destinations. Their addresses are opened when the guest resolves
//! their names, before it gets the response.
//!
//! INVARIANT: at most `MAX_ADDRESSES` addresses are open. When there would be more, the earlier ones are closed to
//! new connections.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use base::error::chain;

use super::question::addresses;
use crate::error::kernel;
use crate::netlink::Socket;
use crate::{Result, ruleset};

/// The limit of open addresses.
const MAX_ADDRESSES: usize = 1024;

/// The hosts of a policy.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// In lower case, perhaps with `*.` at the beginning.
    names: Vec<String>,
    /// A socket of the guest's namespace.
    netfilter: Socket,
    open: HashSet<Ipv4Addr>,
}

impl Hosts {
    pub(crate) fn new(names: Vec<String>, netfilter: Socket) -> Self {
        Self { names, netfilter, open: HashSet::new() }
    }

    /// Whether a name is that of one of these hosts.
    pub(super) fn have(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.names.iter().any(|host| match host.strip_prefix('*') {
            Some(below) => name.len() > below.len() && name.ends_with(below),
            None => *host == name,
        })
    }

    /// Opens the addresses in the response to a query for one of these hosts; `false` if the guest must not get
    /// the response.
    pub(super) fn open(&mut self, query: &[u8], response: &[u8]) -> bool {
        let Some(addresses) = addresses(query, response) else { return false };
        match self.open_addresses(addresses) {
            Ok(()) => true,
            Err(error) => {
                log::error!("{}", chain(&error));
                false
            }
        }
    }

    fn open_addresses(&mut self, mut addresses: Vec<Ipv4Addr>) -> Result<()> {
        let failed = kernel("change the rules of", "a network with hosts");
        addresses.retain(|address| !self.open.contains(address));
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return Ok(());
        }
        if self.open.len() + addresses.len() > MAX_ADDRESSES {
            ruleset::replace_resolved(&addresses).commit(&mut self.netfilter).map_err(failed)?;
            self.open.clear();
        } else {
            ruleset::open_resolved(&addresses).commit(&mut self.netfilter).map_err(failed)?;
        }
        self.open.extend(addresses);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_all_names_below_one() {
        let names = ["example.com", "*.example.org"].map(str::to_owned).to_vec();
        let hosts = Hosts::new(names, Socket::netfilter().unwrap());
        assert!(
            hosts.have("example.com") && hosts.have("EXAMPLE.com") && hosts.have("a.example.org")
        );
        for other in ["a.example.com", "example.org", "aexample.org", "example.com.evil.net", ""] {
            assert!(!hosts.have(other), "{other}");
        }
    }
}
