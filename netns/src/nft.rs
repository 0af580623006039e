//! nf_tables: tables of chains of rules, changed by transactions.
//!
//! | file | what |
//! |---|---|
//! | `rule.rs` | a rule: its matches and its statement |
//! | `transaction.rs` | atomic changes |
//! | `query.rs` | what the kernel has: counters, set elements, the generation of the ruleset |

mod query;
mod rule;
mod transaction;

pub use query::Count;
pub(crate) use query::{counters, dropping_forward_chains, elements, generation, userdata};
pub(crate) use rule::{ESTABLISHED_OR_RELATED, INVALID, Rule};
pub(crate) use transaction::{Chain, Hook, SetKind, Table, Transaction};

/// A netfilter family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// The ingress hook of one link, before all other hooks.
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
