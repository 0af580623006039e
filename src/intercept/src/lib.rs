//! All that VMs send goes through mitmproxy, which this crate starts, watches, and tells what to let
//! pass.
//!
//! ```text
//!   runner                                   mitmdump, a user of its own
//!   ┌────────────────────────────┐ lines of ┌───────────────────────────────┐
//!   │ Proxy ── thread `proxy` ───┼── JSON ──┼─▶ proxy/egress: registry,     │
//!   │   listener, records        │ socket   │   policy, credentials         │
//!   └────────────────────────────┘ pair     └───────────────────────────────┘
//!            VM ── TCP, redirected in the host's namespace ──▶ the listener
//! ```
//!
//! A [`Proxy`] is one for all VMs of a process; a [`Guard`] is what one VM is let pass. The listening
//! socket is ours and outlives the proxy: nobody else can ever have its port, and while the proxy is
//! started anew, connections wait in it. Whoever is not registered gets nothing.
//!
//! | to know | read |
//! |---|---|
//! | how the proxy lives | `supervisor.rs`; how it is started: `launch.rs` |
//! | what is said between it and us | `message.rs`, and `proxy/egress/control.py` |
//! | who may be reached | `policy.rs`: how it is said; `proxy/egress/policy.py`: what it means |
//! | what is kept of it | `record.rs`; without secrets: `masked.rs` |
//! | whom guests trust | `authority.rs` |

mod addon;
mod authority;
mod check;
mod credential;
mod error;
mod folder;
mod guard;
mod launch;
mod link;
mod masked;
mod message;
mod policy;
mod proxy;
mod record;
mod supervisor;
mod watch;

pub use authority::Authority;
pub use check::trial;
pub use credential::{Credentials, Grant, Refusal};
pub use error::{Error, Result};
pub use guard::Guard;
pub use launch::PROGRAM;
pub use policy::{Api, Firewall, Grants, Permission, Policy, Reachable, Secret, Verdict};
pub use proxy::{Config, Proxy};
pub use record::{Entry, Record};
