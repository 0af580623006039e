//! A rule: expressions that look at a packet one after the other, until one does not fit.
//!
//! What an expression loads goes to a register, where the next one finds it.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::netlink::Attributes;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// The register that values are loaded into.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
/// The registers behind it, each four bytes further on.
const NEXT_REGISTER: u32 = libc::NFT_REG32_01 as u32;
const THIRD_REGISTER: u32 = libc::NFT_REG32_02 as u32;

const LINK_LAYER: u32 = libc::NFT_PAYLOAD_LL_HEADER as u32;
const NETWORK_LAYER: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT_LAYER: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;

const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
const DESTINATION_PORT: u32 = 2;

/// The type of objects that count.
pub(super) const COUNTER: u32 = 1;

/// Packets that belong to no connection that there could be.
pub(crate) const INVALID: u32 = 1;
/// Packets of a connection that is known, and errors about one.
pub(crate) const KNOWN: u32 = 2 | 4;

/// A rule in the making. What it looks at comes first, what it does last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(Attributes);

#[derive(Clone, Copy)]
enum Comparison {
    Equal = libc::NFT_CMP_EQ as isize,
    Unequal = libc::NFT_CMP_NEQ as isize,
    AtMost = libc::NFT_CMP_LTE as isize,
    AtLeast = libc::NFT_CMP_GTE as isize,
}

/// What a packet is looked at.
impl Rule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Came in by this link.
    pub(crate) fn input(self, name: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME).compare(Comparison::Equal, &whole(name))
    }

    /// Came in by a link whose name begins so.
    pub(crate) fn input_begins(self, prefix: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME).compare(Comparison::Equal, prefix.as_bytes())
    }

    /// Leaves by this link.
    pub(crate) fn output(self, name: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME).compare(Comparison::Equal, &whole(name))
    }

    /// Leaves by a link whose name begins so.
    pub(crate) fn output_begins(self, prefix: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME).compare(Comparison::Equal, prefix.as_bytes())
    }

    /// Leaves by a link whose name does not begin so.
    pub(crate) fn output_begins_otherwise(self, prefix: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME).compare(Comparison::Unequal, prefix.as_bytes())
    }

    /// Is of this protocol of the link layer, such as ARP.
    pub(crate) fn ether_type(self, kind: i32) -> Self {
        self.meta(libc::NFT_META_PROTOCOL).compare(Comparison::Equal, &(kind as u16).to_be_bytes())
    }

    /// Is of IPv6.
    pub(crate) fn ipv6(self) -> Self {
        self.meta(libc::NFT_META_NFPROTO).compare(Comparison::Equal, &[libc::NFPROTO_IPV6 as u8])
    }

    /// Is of this protocol of the transport layer, such as TCP.
    pub(crate) fn protocol(self, number: i32) -> Self {
        self.meta(libc::NFT_META_L4PROTO).compare(Comparison::Equal, &[number as u8])
    }

    /// Was sent by another hardware address than this.
    pub(crate) fn sender_is_not(self, mac: [u8; 6]) -> Self {
        self.payload(REGISTER, LINK_LAYER, 6, 6).compare(Comparison::Unequal, &mac)
    }

    /// Goes to a multicast or broadcast address of the link layer.
    pub(crate) fn ether_daddr_is_group(self) -> Self {
        const GROUP: [u8; 4] = [1, 0, 0, 0];
        let loaded = self.payload(REGISTER, LINK_LAYER, 0, 4);
        loaded.mask(&GROUP).compare(Comparison::Equal, &GROUP)
    }

    /// Is an ARP message that speaks of the sender so.
    pub(crate) fn arp_sender(self, mac: [u8; 6], address: Ipv4Addr) -> Self {
        let said = [&mac[..], &address.octets()].concat();
        self.payload(REGISTER, NETWORK_LAYER, 8, 10).compare(Comparison::Equal, &said)
    }

    /// Comes from this address.
    pub(crate) fn source(self, address: Ipv4Addr) -> Self {
        self.load_source().compare(Comparison::Equal, &address.octets())
    }

    /// Goes to this network.
    pub(crate) fn destination(self, net: Ipv4Net) -> Self {
        if net.prefix_len() == 0 {
            return self;
        }
        self.payload(REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .mask(&net.netmask().octets())
            .compare(Comparison::Equal, &net.network().octets())
    }

    /// Goes to an address of a set.
    pub(crate) fn destination_in(self, set: &str) -> Self {
        self.payload(REGISTER, NETWORK_LAYER, DESTINATION, 4).look_up(set, false)
    }

    /// Goes to a port of a set. Its protocol must be known to have such.
    pub(crate) fn port_in(self, set: &str) -> Self {
        self.payload(REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2).look_up(set, false)
    }

    /// Goes to no address of a set.
    pub(crate) fn destination_outside(self, set: &str) -> Self {
        self.payload(REGISTER, NETWORK_LAYER, DESTINATION, 4).look_up(set, true)
    }

    /// Comes from an address and goes to a port that a set has together.
    pub(crate) fn source_and_port_in(self, set: &str) -> Self {
        self.load_source()
            .payload(NEXT_REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2)
            .look_up(set, false)
    }

    /// Has a source address, destination address and destination port that a set has together.
    pub(crate) fn source_and_socket_in(self, set: &str) -> Self {
        self.load_source()
            .payload(NEXT_REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .payload(THIRD_REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2)
            .look_up(set, false)
    }

    /// Is sent by a process whose user ID has these bits under a mask.
    pub(crate) fn skuid(self, bits: u32, mask: u32) -> Self {
        self.meta(libc::NFT_META_SKUID)
            .mask(&mask.to_ne_bytes())
            .compare(Comparison::Equal, &bits.to_ne_bytes())
    }

    /// Has a sender's user ID, destination address and destination port that a set has together.
    pub(crate) fn skuid_and_socket_in(self, set: &str) -> Self {
        self.meta(libc::NFT_META_SKUID)
            .payload(NEXT_REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .payload(THIRD_REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2)
            .look_up(set, false)
    }

    /// Likewise, with the port 0 in the set, which stands for every port.
    pub(crate) fn skuid_and_address_in(self, set: &str) -> Self {
        self.meta(libc::NFT_META_SKUID)
            .payload(NEXT_REGISTER, NETWORK_LAYER, DESTINATION, 4)
            .immediate(THIRD_REGISTER, &Attributes::new().bytes(DATA_VALUE, &[0; 4]))
            .look_up(set, false)
    }

    /// Is of IPv4.
    pub(crate) fn ipv4(self) -> Self {
        self.meta(libc::NFT_META_NFPROTO).compare(Comparison::Equal, &[libc::NFPROTO_IPV4 as u8])
    }

    /// Goes to an address that is not unicast on the network: one of the host's own, a broadcast or
    /// a multicast address.
    pub(crate) fn fib_daddr_is_not_unicast(self) -> Self {
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

    /// Goes to one of these ports. Its protocol must be known to have such.
    pub(crate) fn port(self, ports: &RangeInclusive<u16>) -> Self {
        let loaded = self.payload(REGISTER, TRANSPORT_LAYER, DESTINATION_PORT, 2);
        let (first, last) = (ports.start().to_be_bytes(), ports.end().to_be_bytes());
        if first == last {
            return loaded.compare(Comparison::Equal, &first);
        }
        loaded.compare(Comparison::AtLeast, &first).compare(Comparison::AtMost, &last)
    }

    /// Is in one of these states: [`INVALID`], [`KNOWN`].
    pub(crate) fn state(self, states: u32) -> Self {
        self.connection(libc::NFT_CT_STATE)
            .mask(&states.to_ne_bytes())
            .compare(Comparison::Unequal, &[0; 4])
    }

    /// Belongs to a connection whose destination somebody else has changed.
    pub(crate) fn rerouted(self) -> Self {
        const IPS_DST_NAT: u32 = 1 << 5;
        self.connection(libc::NFT_CT_STATUS)
            .mask(&IPS_DST_NAT.to_ne_bytes())
            .compare(Comparison::Unequal, &[0; 4])
    }

    /// Belongs to a connection with this mark.
    pub(crate) fn mark(self, mark: u32) -> Self {
        self.connection(libc::NFT_CT_MARK).compare(Comparison::Equal, &mark.to_ne_bytes())
    }

    /// Opens one connection more than so many.
    pub(crate) fn over(self, connections: u32) -> Self {
        const COUNT: u16 = 1;
        const FLAGS: u16 = 2;
        const INVERTED: u32 = 1;
        let data = Attributes::new().be32(COUNT, connections).be32(FLAGS, INVERTED);
        self.push("connlimit", &data)
    }

    /// Is one of no more than so many a second, with a few times that at once.
    pub(crate) fn at_most(self, per_second: u64) -> Self {
        const RATE: u16 = 1;
        const UNIT: u16 = 2;
        const BURST: u16 = 3;
        let burst = u32::try_from(per_second * 2).unwrap_or(u32::MAX);
        let data = Attributes::new().be64(RATE, per_second).be64(UNIT, 1).be32(BURST, burst);
        self.push("limit", &data)
    }

    /// Came in by a link that does not lead back to its source.
    pub(crate) fn spoofed(self) -> Self {
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

/// What is done with a packet.
impl Rule {
    /// Counts it with a counter of the table.
    pub(crate) fn count(self, counter: &str) -> Self {
        const TYPE: u16 = 1;
        const NAME: u16 = 2;
        self.push("objref", &Attributes::new().be32(TYPE, COUNTER).text(NAME, counter))
    }

    /// Tells of it whoever listens in this namespace, with its first bytes.
    pub(crate) fn log(self) -> Self {
        const GROUP: u16 = 1;
        const SNAPLEN: u16 = 3;
        const HEAD: u32 = 64;
        self.push("log", &Attributes::new().bytes(GROUP, &[0, 0]).be32(SNAPLEN, HEAD))
    }

    /// Marks its connection.
    pub(crate) fn set_mark(self, mark: u32) -> Self {
        const KEY: u16 = 2;
        const SREG: u16 = 4;
        let data = Attributes::new().be32(KEY, libc::NFT_CT_MARK as u32).be32(SREG, REGISTER);
        self.load(&mark.to_ne_bytes()).push("ct", &data)
    }

    /// Lets it pass this hook.
    pub(crate) fn accept(self) -> Self {
        self.verdict(libc::NF_ACCEPT, None)
    }

    /// Forgets it.
    pub(crate) fn drop(self) -> Self {
        self.verdict(libc::NF_DROP, None)
    }

    /// Forgets it and tells its sender that it is forbidden.
    pub(crate) fn refuse(self) -> Self {
        const TYPE: u16 = 1;
        const CODE: u16 = 2;
        let kind = libc::NFT_REJECT_ICMPX_UNREACH as u32;
        let code = libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED as u8;
        self.push("reject", &Attributes::new().be32(TYPE, kind).bytes(CODE, &[code]))
    }

    /// The same in a table of IPv4 alone.
    pub(crate) fn refuse_ipv4(self) -> Self {
        const TYPE: u16 = 1;
        const CODE: u16 = 2;
        const FORBIDDEN: u8 = 13;
        let kind = libc::NFT_REJECT_ICMP_UNREACH as u32;
        self.push("reject", &Attributes::new().be32(TYPE, kind).bytes(CODE, &[FORBIDDEN]))
    }

    /// Goes on in another chain, and comes back if that does not decide.
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.verdict(libc::NFT_JUMP, Some(chain))
    }

    /// Goes on in another chain.
    pub(crate) fn go_to(self, chain: &str) -> Self {
        self.verdict(libc::NFT_GOTO, Some(chain))
    }

    /// Makes its connection come from this address.
    pub(crate) fn come_from(self, address: Ipv4Addr) -> Self {
        const TYPE: u16 = 1;
        const FAMILY: u16 = 2;
        const ADDRESS: u16 = 3;
        let data = Attributes::new().be32(TYPE, libc::NFT_NAT_SNAT as u32);
        let data = data.be32(FAMILY, libc::NFPROTO_IPV4 as u32).be32(ADDRESS, REGISTER);
        self.load(&address.octets()).push("nat", &data)
    }

    /// Makes its connection come from the address of the link that it leaves by.
    pub(crate) fn masquerade(self) -> Self {
        self.push("masq", &Attributes::new())
    }

    /// Sends it to the port of this host that a map has for its source; one that the map does not
    /// have goes on.
    pub(crate) fn redirect_by(self, map: &str) -> Self {
        const SET: u16 = 1;
        const SREG: u16 = 2;
        const DREG: u16 = 3;
        const PORT: u16 = 1;
        let lookup = Attributes::new().text(SET, map).be32(SREG, REGISTER).be32(DREG, REGISTER);
        self.load_source()
            .push("lookup", &lookup)
            .push("redir", &Attributes::new().be32(PORT, REGISTER))
    }
}

impl Rule {
    /// As the kernel is told.
    pub(super) fn expressions(&self) -> &Attributes {
        &self.0
    }

    fn push(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().text(EXPR_NAME, name).nest(EXPR_DATA, data);
        Self(self.0.nest(LIST_ELEM, &expression))
    }

    fn meta(self, key: i32) -> Self {
        const DREG: u16 = 1;
        const KEY: u16 = 2;
        self.push("meta", &Attributes::new().be32(KEY, key as u32).be32(DREG, REGISTER))
    }

    fn connection(self, key: i32) -> Self {
        const DREG: u16 = 1;
        const KEY: u16 = 2;
        self.push("ct", &Attributes::new().be32(KEY, key as u32).be32(DREG, REGISTER))
    }

    fn load_source(self) -> Self {
        self.payload(REGISTER, NETWORK_LAYER, SOURCE, 4)
    }

    fn payload(self, register: u32, base: u32, offset: u32, length: u32) -> Self {
        const DREG: u16 = 1;
        const BASE: u16 = 2;
        const OFFSET: u16 = 3;
        const LEN: u16 = 4;
        let data = Attributes::new().be32(DREG, register).be32(BASE, base);
        self.push("payload", &data.be32(OFFSET, offset).be32(LEN, length))
    }

    fn compare(self, comparison: Comparison, value: &[u8]) -> Self {
        const SREG: u16 = 1;
        const OP: u16 = 2;
        const DATA: u16 = 3;
        let data = Attributes::new().be32(SREG, REGISTER).be32(OP, comparison as u32);
        self.push("cmp", &data.nest(DATA, &Attributes::new().bytes(DATA_VALUE, value)))
    }

    fn mask(self, mask: &[u8; 4]) -> Self {
        const SREG: u16 = 1;
        const DREG: u16 = 2;
        const LEN: u16 = 3;
        const MASK: u16 = 4;
        const XOR: u16 = 5;
        let value = |bytes: &[u8]| Attributes::new().bytes(DATA_VALUE, bytes);
        let data = Attributes::new().be32(SREG, REGISTER).be32(DREG, REGISTER).be32(LEN, 4);
        self.push("bitwise", &data.nest(MASK, &value(mask)).nest(XOR, &value(&[0; 4])))
    }

    fn look_up(self, set: &str, is_inverted: bool) -> Self {
        const SET: u16 = 1;
        const SREG: u16 = 2;
        const FLAGS: u16 = 5;
        let data = Attributes::new().text(SET, set).be32(SREG, REGISTER);
        self.push("lookup", &data.be32(FLAGS, is_inverted.into()))
    }

    fn load(self, value: &[u8]) -> Self {
        self.immediate(REGISTER, &Attributes::new().bytes(DATA_VALUE, value))
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        const CODE: u16 = 1;
        const CHAIN: u16 = 2;
        let verdict = Attributes::new().be32(CODE, code as u32);
        let verdict = match chain {
            Some(chain) => verdict.text(CHAIN, chain),
            None => verdict,
        };
        let data = Attributes::new().nest(DATA_VERDICT, &verdict);
        self.immediate(libc::NFT_REG_VERDICT as u32, &data)
    }

    fn immediate(self, register: u32, value: &Attributes) -> Self {
        const DREG: u16 = 1;
        const DATA: u16 = 2;
        self.push("immediate", &Attributes::new().be32(DREG, register).nest(DATA, value))
    }
}

/// A link's name as a register holds it.
fn whole(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (target, byte) in bytes.iter_mut().zip(name.bytes()) {
        *target = byte;
    }
    bytes
}
