//! Networks of VMs, made in advance.
//!
//! A [`Pool`] keeps networks ready; a [`Lease`] is a network in use. A network is a namespace with a tap,
//! which a monitor serves as the VM's network card. A veth pair joins the namespace to the host, and
//! nftables rules enforce the VM's policy. Every network looks the same from inside the VM ([`guest`]).
//!
//! Everything is configured by netlink; no program is run. Leftovers of a killed runner are found by
//! their names, and the next pool removes them.
//!
//! | to know | read |
//! |---|---|
//! | what a network consists of, and in which order it is made and removed | `slot.rs` |
//! | what a guest may send, and why a packet is rejected | `ruleset.rs` |
//! | what is shared in the host's namespace, independent of the number of VMs | `host.rs` |
//! | how networks are made, leased and reset | `pool.rs` |
//! | which runner owns which network | `lock.rs`; leftovers of dead runners: `membership.rs`, `garbage.rs` |
//! | DNS, and published ports | `forwarder.rs` |
//! | the netlink protocols | `netlink.rs`, `nft.rs`, `link.rs`, `conntrack.rs`, `drop_log.rs` |

mod check;
mod conntrack;
mod drop_log;
mod error;
mod forwarder;
mod garbage;
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
mod ruleset;
mod slot;
mod sys;
mod tap;
#[cfg(feature = "testing")]
pub mod testing;

pub use check::{Check, check, in_new_namespace};
pub use error::{Error, Result};
pub use forwarder::{GuestPorts, ListenerCallback};
pub use lease::Lease;
pub use membership::{LOCK_PATH, Leftovers, leftovers, reclaim};
pub use netlink::NetlinkError;
pub use nft::Count;
pub use pool::{Config, Pool};
pub use proxy_filter::ProxyFilter;
pub use range::Range;
pub use ruleset::is_internal;
pub use slot::Counters;
