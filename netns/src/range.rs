//! The host's address range for networks. Each network uses a /30: the first address is the host's end of
//! the link, the second one the namespace's.
//!
//! A network is named after its /30, regardless of the range that it was taken from:
//! `sr-0ac80004` is the link of 10.200.0.4/30.

use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::{Error, Result};

/// The prefix of the names of our links on the host.
pub(crate) const LINK_PREFIX: &str = "sr-";

/// An address range for networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range(Ipv4Net);

impl Range {
    /// The number of networks.
    pub fn size(self) -> u32 {
        1 << (Self::SLOT_BITS - self.0.prefix_len())
    }

    /// The addresses of the network with this index, modulo the size.
    pub(crate) fn slot(self, index: u32) -> Addresses {
        Addresses(u32::from(self.0.network()) + 4 * (index % self.size()))
    }

    /// As a network.
    pub fn net(self) -> Ipv4Net {
        self.0
    }

    const SLOT_BITS: u8 = 30;
}

/// 10.200.0.0/16: 16384 networks.
impl Default for Range {
    fn default() -> Self {
        Self(Ipv4Net::new_assert(Ipv4Addr::new(10, 200, 0, 0), 16))
    }
}

impl FromStr for Range {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadRange { range: format!("`{text}`") };
        let net: Ipv4Net = text.parse().map_err(|_| bad())?;
        let is_plain = net.addr() == net.network() && (8..=30).contains(&net.prefix_len());
        is_plain.then_some(Self(net)).ok_or_else(bad)
    }
}

/// The addresses of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Addresses(u32);

impl Addresses {
    /// The prefix length of the link between host and namespace.
    pub(crate) const PREFIX: u8 = 30;

    /// The host's end of the link.
    pub(crate) fn host(self) -> Ipv4Addr {
        Ipv4Addr::from(self.0 + 1)
    }

    /// The namespace's end: the VM's address as the host sees it.
    pub(crate) fn namespace(self) -> Ipv4Addr {
        Ipv4Addr::from(self.0 + 2)
    }

    /// The name of the host's end of the link.
    pub(crate) fn link(self) -> String {
        format!("{LINK_PREFIX}{:08x}", self.0)
    }

    /// The network of a link, by its name; `None` if the link is not one of ours.
    pub(crate) fn of_link(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(LINK_PREFIX)?;
        let base = u32::from_str_radix(digits, 16).ok()?;
        let addresses = Self(base);
        (base % 4 == 0 && addresses.link() == name).then_some(addresses)
    }

    /// The network that an address belongs to.
    pub(crate) fn containing(address: Ipv4Addr) -> Self {
        Self(u32::from(address) & !3)
    }

    /// The base address as a number, unique among the networks of this host.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_four_addresses() {
        let range: Range = "10.200.0.0/28".parse().unwrap();
        assert_eq!(range.size(), 4);
        assert_eq!(range.slot(0).host(), Ipv4Addr::new(10, 200, 0, 1));
        assert_eq!(range.slot(3).namespace(), Ipv4Addr::new(10, 200, 0, 14));
        assert_eq!(range.slot(4), range.slot(0));
        assert_eq!(Range::default().size(), 16384);
    }

    #[test]
    fn a_links_name_identifies_its_network() {
        let addresses = Range::default().slot(1);
        assert_eq!(addresses.link(), "sr-0ac80004");
        assert_eq!(Addresses::of_link("sr-0ac80004"), Some(addresses));
        assert_eq!(Addresses::containing(addresses.namespace()), addresses);
        for other in ["sr-0ac80005", "sr-ac80004", "sr-+ac80004", "eth0", "sr-0AC80004", "sr-"] {
            assert_eq!(Addresses::of_link(other), None, "{other}");
        }
    }

    #[test]
    fn other_text_than_a_range_is_refused() {
        for text in ["10.200.0.1/16", "10.0.0.0/31", "0.0.0.0/0", "10.0.0.0", "fd00::/64", "x"] {
            let error = text.parse::<Range>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("expected"), "{error}");
        }
    }
}
