//! Conditions on a packet, named as in `nft`. A rule matches if all of them hold.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::{
    Comparison, DATA_VALUE, DESTINATION, DESTINATION_PORT, LINK_LAYER, NETWORK_LAYER,
    NEXT_REGISTER, REGISTER, Rule, THIRD_REGISTER, TRANSPORT_LAYER, whole,
};
use crate::netlink::Attributes;

impl Rule {
    /// `iifname NAME`
    pub(crate) fn iifname(self, name: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME).compare(Comparison::Equal, &whole(name))
    }

    /// `iifname "PREFIX*"`
    pub(crate) fn iifname_prefix(self, prefix: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME).compare(Comparison::Equal, prefix.as_bytes())
    }

    /// `oifname NAME`
    pub(crate) fn oifname(self, name: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME).compare(Comparison::Equal, &whole(name))
    }

    /// `oifname "PREFIX*"`
    pub(crate) fn oifname_prefix(self, prefix: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME).compare(Comparison::Equal, prefix.as_bytes())
    }

    /// `oifname != "PREFIX*"`
    pub(crate) fn oifname_not_prefix(self, prefix: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME).compare(Comparison::Unequal, prefix.as_bytes())
    }

    /// `meta protocol`: the Ethernet type, such as ARP.
    pub(crate) fn meta_protocol(self, kind: i32) -> Self {
        self.meta(libc::NFT_META_PROTOCOL).compare(Comparison::Equal, &(kind as u16).to_be_bytes())
    }

    /// `meta nfproto ipv6`
    pub(crate) fn nfproto_ipv6(self) -> Self {
        self.meta(libc::NFT_META_NFPROTO).compare(Comparison::Equal, &[libc::NFPROTO_IPV6 as u8])
    }

    /// `meta l4proto`: the transport protocol, such as TCP.
    pub(crate) fn l4proto(self, number: i32) -> Self {
        self.meta(libc::NFT_META_L4PROTO).compare(Comparison::Equal, &[number as u8])
    }

    /// `ether saddr != MAC`
    pub(crate) fn ether_saddr_not(self, mac: [u8; 6]) -> Self {
        self.payload(REGISTER, LINK_LAYER, 6, 6).compare(Comparison::Unequal, &mac)
    }

    /// The destination MAC address is a multicast or broadcast address.
    pub(crate) fn ether_daddr_is_group(self) -> Self {
        const GROUP: [u8; 4] = [1, 0, 0, 0];
        let loaded = self.payload(REGISTER, LINK_LAYER, 0, 4);
        loaded.mask(&GROUP).compare(Comparison::Equal, &GROUP)
    }

    /// `arp saddr ether MAC arp saddr ip ADDRESS`
    pub(crate) fn arp_saddr(self, mac: [u8; 6], address: Ipv4Addr) -> Self {
        let said = [&mac[..], &address.octets()].concat();
        self.payload(REGISTER, NETWORK_LAYER, 8, 10).compare(Comparison::Equal, &said)
    }

    /// `ip saddr ADDRESS`
    pub(crate) fn ip_saddr(self, address: Ipv4Addr) -> Self {
        self.load_source().compare(Comparison::Equal, &address.octets())
    }

    /// `ip daddr NETWORK`
    pub(crate) fn ip_daddr(self, net: Ipv4Net) -> Self {
        if net.prefix_len() == 0 {
            return self;
        }
        self.payload(REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .mask(&net.netmask().octets())
            .compare(Comparison::Equal, &net.network().octets())
    }

    /// `ip daddr @SET`
    pub(crate) fn ip_daddr_in(self, set: &str) -> Self {
        self.payload(REGISTER, NETWORK_LAYER, DESTINATION, 4).look_up(set, false)
    }

    /// `th dport @SET`. An earlier expression must match a protocol with ports.
    pub(crate) fn th_dport_in(self, set: &str) -> Self {
        self.payload(REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2).look_up(set, false)
    }

    /// `ip daddr != @SET`
    pub(crate) fn ip_daddr_not_in(self, set: &str) -> Self {
        self.payload(REGISTER, NETWORK_LAYER, DESTINATION, 4).look_up(set, true)
    }

    /// `ip saddr . th dport @SET`
    pub(crate) fn saddr_dport_in(self, set: &str) -> Self {
        self.load_source()
            .payload(NEXT_REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2)
            .look_up(set, false)
    }

    /// `ip saddr . ip daddr . th dport @SET`
    pub(crate) fn saddr_daddr_dport_in(self, set: &str) -> Self {
        self.load_source()
            .payload(NEXT_REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .payload(THIRD_REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2)
            .look_up(set, false)
    }

    /// `meta skuid & MASK == BITS`: the user ID of the sending socket.
    pub(crate) fn skuid(self, bits: u32, mask: u32) -> Self {
        self.meta(libc::NFT_META_SKUID)
            .mask(&mask.to_ne_bytes())
            .compare(Comparison::Equal, &bits.to_ne_bytes())
    }

    /// `meta skuid . ip daddr . th dport @SET`
    pub(crate) fn skuid_daddr_dport_in(self, set: &str) -> Self {
        self.meta(libc::NFT_META_SKUID)
            .payload(NEXT_REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .payload(THIRD_REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2)
            .look_up(set, false)
    }

    /// `meta skuid . ip daddr . 0 @SET`: port 0 in the set stands for every port.
    pub(crate) fn skuid_daddr_any_port_in(self, set: &str) -> Self {
        self.meta(libc::NFT_META_SKUID)
            .payload(NEXT_REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .immediate(THIRD_REGISTER, &Attributes::new().bytes(DATA_VALUE, &[0; 4]))
            .look_up(set, false)
    }

    /// `meta nfproto ipv4`
    pub(crate) fn nfproto_ipv4(self) -> Self {
        self.meta(libc::NFT_META_NFPROTO).compare(Comparison::Equal, &[libc::NFPROTO_IPV4 as u8])
    }

    /// `fib daddr type != unicast`: an address of the host, a broadcast or a multicast address.
    pub(crate) fn fib_daddr_not_unicast(self) -> Self {
        const DREG: u16 = 1;
        const RESULT: u16 = 2;
        const FLAGS: u16 = 3;
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        let data = Attributes::new().be32(DREG, REGISTER);
        let data = data.be32(RESULT, ADDRESS_TYPE).be32(FLAGS, DESTINATION);
        let unicast = u32::from(libc::RTN_UNICAST);
        self.push("fib", &data).compare(Comparison::Unequal, &unicast.to_ne_bytes())
    }

    /// `th dport FIRST-LAST`. An earlier expression must match a protocol with ports.
    pub(crate) fn th_dport(self, ports: &RangeInclusive<u16>) -> Self {
        let loaded = self.payload(REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2);
        let (first, last) = (ports.start().to_be_bytes(), ports.end().to_be_bytes());
        if first == last {
            return loaded.compare(Comparison::Equal, &first);
        }
        loaded.compare(Comparison::AtLeast, &first).compare(Comparison::AtMost, &last)
    }

    /// `ct state`: [`INVALID`](super::INVALID) or [`ESTABLISHED_OR_RELATED`](super::ESTABLISHED_OR_RELATED).
    pub(crate) fn ct_state(self, states: u32) -> Self {
        self.connection(libc::NFT_CT_STATE)
            .mask(&states.to_ne_bytes())
            .compare(Comparison::Unequal, &[0; 4])
    }

    /// `ct status dnat`: another table has changed the destination of the connection.
    pub(crate) fn dnat_status(self) -> Self {
        const IPS_DST_NAT: u32 = 1 << 5;
        self.connection(libc::NFT_CT_STATUS)
            .mask(&IPS_DST_NAT.to_ne_bytes())
            .compare(Comparison::Unequal, &[0; 4])
    }

    /// `ct mark MARK`
    pub(crate) fn ct_mark(self, mark: u32) -> Self {
        self.connection(libc::NFT_CT_MARK).compare(Comparison::Equal, &mark.to_ne_bytes())
    }

    /// `ct count over CONNECTIONS`
    pub(crate) fn ct_count_over(self, connections: u32) -> Self {
        const COUNT: u16 = 1;
        const FLAGS: u16 = 2;
        const INVERTED: u32 = 1;
        let data = Attributes::new().be32(COUNT, connections).be32(FLAGS, INVERTED);
        self.push("connlimit", &data)
    }

    /// `limit rate N/second`, with a burst of twice that.
    pub(crate) fn limit_rate(self, per_second: u64) -> Self {
        const RATE: u16 = 1;
        const UNIT: u16 = 2;
        const BURST: u16 = 3;
        let burst = u32::try_from(per_second * 2).unwrap_or(u32::MAX);
        let data = Attributes::new().be64(RATE, per_second).be64(UNIT, 1).be32(BURST, burst);
        self.push("limit", &data)
    }

    /// Reverse path filter, `fib saddr . iif oif missing`: the link of arrival is not on the route to the source.
    pub(crate) fn rpf_fail(self) -> Self {
        const DREG: u16 = 1;
        const RESULT: u16 = 2;
        const FLAGS: u16 = 3;
        const OUTPUT: u32 = 1;
        const SOURCE_AND_INPUT: u32 = 1 | 8;
        let data = Attributes::new().be32(DREG, REGISTER);
        let data = data.be32(RESULT, OUTPUT).be32(FLAGS, SOURCE_AND_INPUT);
        self.push("fib", &data).compare(Comparison::Equal, &[0; 4])
    }
}
