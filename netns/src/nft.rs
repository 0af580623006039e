//! nf_tables: tables of chains of rules, changed by transactions.
//!
//! | file | what |
//! |---|---|
//! | `rule.rs` | a rule: what it looks at, and what it does |
//! | `transaction.rs` | changes, all of which take effect or none |
//! | `state.rs` | what there is, and what rules have counted |

mod rule;
mod state;
mod transaction;

pub(crate) use rule::{INVALID, KNOWN, Rule};
pub use state::Count;
pub(crate) use state::{closed_forwarders, counters, elements, generation, note};
pub(crate) use transaction::{Chain, Hook, SetKind, Table, Transaction};

/// A netfilter family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// All that comes in by one link, before anything else sees it.
    Netdev,
}

impl Family {
    fn number(self) -> u8 {
        let number = match self {
            Self::Inet => libc::NFPROTO_INET,
            Self::Ip => libc::NFPROTO_IPV4,
            Self::Netdev => libc::NFPROTO_NETDEV,
        };
        number as u8
    }
}
