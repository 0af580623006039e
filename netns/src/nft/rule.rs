//! A rule: a list of expressions. The kernel evaluates them in order and stops at the first that does
//! not match the packet.
//!
//! An expression loads a value into a register; the next expression reads it there.
//!
//! | file | what |
//! |---|---|
//! | this one | the registers, and the expressions as netlink attributes |
//! | `matches.rs` | conditions on a packet, named as in `nft` |
//! | `statement.rs` | actions on a packet, named as in `nft` |

mod matches;
mod statement;

use crate::netlink::Attributes;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// The register that values are loaded into.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
/// The registers after it, each four bytes long.
const NEXT_REGISTER: u32 = libc::NFT_REG32_01 as u32;
const THIRD_REGISTER: u32 = libc::NFT_REG32_02 as u32;

const LINK_LAYER: u32 = libc::NFT_PAYLOAD_LL_HEADER as u32;
const NETWORK_LAYER: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT_LAYER: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;

const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
const DESTINATION_PORT: u32 = 2;

/// The object type of counters.
pub(super) const COUNTER: u32 = 1;

/// `ct state invalid`
pub(crate) const INVALID: u32 = 1;
/// `ct state established,related`
pub(crate) const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

/// A rule under construction: first its matches, last its statement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(Attributes);

#[derive(Clone, Copy)]
enum Comparison {
    Equal = libc::NFT_CMP_EQ as isize,
    Unequal = libc::NFT_CMP_NEQ as isize,
    AtMost = libc::NFT_CMP_LTE as isize,
    AtLeast = libc::NFT_CMP_GTE as isize,
}

impl Rule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The rule as a list of netlink attributes.
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

/// The name of a link, padded with zeros to the length of a register's value.
fn whole(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (target, byte) in bytes.iter_mut().zip(name.bytes()) {
        *target = byte;
    }
    bytes
}
