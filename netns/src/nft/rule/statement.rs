//! Actions on a packet, named as in `nft`.

use std::net::Ipv4Addr;

use super::{COUNTER, REGISTER, Rule};
use crate::netlink::Attributes;

impl Rule {
    /// `counter name NAME`
    pub(crate) fn counter(self, counter: &str) -> Self {
        const TYPE: u16 = 1;
        const NAME: u16 = 2;
        self.push("objref", &Attributes::new().be32(TYPE, COUNTER).text(NAME, counter))
    }

    /// `log group 0 snaplen 64`: to the listener of this namespace's log.
    pub(crate) fn log(self) -> Self {
        const GROUP: u16 = 1;
        const SNAPLEN: u16 = 3;
        const HEAD: u32 = 64;
        self.push("log", &Attributes::new().bytes(GROUP, &[0, 0]).be32(SNAPLEN, HEAD))
    }

    /// `ct mark set MARK`
    pub(crate) fn set_ct_mark(self, mark: u32) -> Self {
        const KEY: u16 = 2;
        const SREG: u16 = 4;
        let data = Attributes::new().be32(KEY, libc::NFT_CT_MARK as u32).be32(SREG, REGISTER);
        self.load(&mark.to_ne_bytes()).push("ct", &data)
    }

    /// Accepts the packet at this hook.
    pub(crate) fn accept(self) -> Self {
        self.verdict(libc::NF_ACCEPT, None)
    }

    /// Drops the packet.
    pub(crate) fn drop(self) -> Self {
        self.verdict(libc::NF_DROP, None)
    }

    /// `reject with icmpx admin-prohibited`
    pub(crate) fn reject(self) -> Self {
        const TYPE: u16 = 1;
        const CODE: u16 = 2;
        let kind = libc::NFT_REJECT_ICMPX_UNREACH as u32;
        let code = libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED as u8;
        self.push("reject", &Attributes::new().be32(TYPE, kind).bytes(CODE, &[code]))
    }

    /// `reject with icmp admin-prohibited`, for tables of the family `ip`.
    pub(crate) fn reject_ipv4(self) -> Self {
        const TYPE: u16 = 1;
        const CODE: u16 = 2;
        const FORBIDDEN: u8 = 13;
        let kind = libc::NFT_REJECT_ICMP_UNREACH as u32;
        self.push("reject", &Attributes::new().be32(TYPE, kind).bytes(CODE, &[FORBIDDEN]))
    }

    /// Continues in another chain and returns if that gives no verdict.
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.verdict(libc::NFT_JUMP, Some(chain))
    }

    /// Continues in another chain, without return.
    pub(crate) fn goto(self, chain: &str) -> Self {
        self.verdict(libc::NFT_GOTO, Some(chain))
    }

    /// `snat to ADDRESS`
    pub(crate) fn snat(self, address: Ipv4Addr) -> Self {
        const TYPE: u16 = 1;
        const FAMILY: u16 = 2;
        const ADDRESS: u16 = 3;
        let data = Attributes::new().be32(TYPE, libc::NFT_NAT_SNAT as u32);
        let data = data.be32(FAMILY, libc::NFPROTO_IPV4 as u32).be32(ADDRESS, REGISTER);
        self.load(&address.octets()).push("nat", &data)
    }

    /// `masquerade`
    pub(crate) fn masquerade(self) -> Self {
        self.push("masq", &Attributes::new())
    }

    /// `redirect to :ip saddr map @MAP`. The rule does not match if the map lacks the source address.
    pub(crate) fn redirect_map(self, map: &str) -> Self {
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
