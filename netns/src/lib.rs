//! The network of a VM, ready before it is asked for.
//!
//! A [`Pool`] keeps networks ready; a [`Lease`] is one in use. A network is a namespace with a tap
//! that a monitor serves as the VM's network card, joined to the host by a pair of links, with rules
//! that let pass what the VM's policy allows. The VM finds the same in each ([`guest`]).
//!
//! Everything is done by netlink: no program is run, and nothing is left on the host that the next
//! pool would not find by its name.
//!
//! | to know | read |
//! |---|---|
//! | what a network consists of, in which order it comes and goes | `slot.rs` |
//! | what a guest may send, and why a packet is refused | `ruleset.rs` |
//! | what the host's namespace has, which does not grow with VMs | `host.rs` |
//! | how networks become ready, and ready again | `pool.rs` |
//! | who has which network, of all runners | `lock.rs`; what the dead left: `membership.rs`, `remains.rs` |
//! | names, and published ports | `relay.rs` |
//! | the kernel's language | `netlink.rs`, `nft.rs`, `link.rs`, `conntrack.rs`, `drop_log.rs` |

mod check;
mod conntrack;
mod drop_log;
mod error;
pub mod guest;
mod host;
mod lease;
mod link;
mod lock;
mod membership;
mod namespace;
mod netlink;
mod nft;
mod pool;
mod proxy_filter;
mod range;
mod relay;
mod remains;
mod ruleset;
mod slot;
mod sys;
mod tap;
#[cfg(feature = "testing")]
pub mod testing;

pub use check::{Check, apart, check};
pub use error::{Error, Result};
pub use lease::Lease;
pub use membership::{LOCK_PATH, Leftovers, leftovers, reclaim};
pub use netlink::Refusal;
pub use nft::Count;
pub use pool::{Config, Pool};
pub use proxy_filter::ProxyFilter;
pub use range::Range;
pub use relay::GuestPorts;
pub use slot::Counters;
