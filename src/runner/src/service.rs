//! The service: takes jobs from a source, each into a VM of its own.
//!
//! ```text
//!  source ── offers, cancellations ──▶ main: one select! ◀── signals
//!                                        │ admits         ▲
//!                                        ▼                │ claimed, over
//!                                      job-1a2b3c4d ──────┘
//!                                        │ outcomes: journal, then
//!                                        ▼
//!                                      report ──▶ platform
//! ```
//!
//! A job's stages, in its thread (`job.rs`, `work.rs`):
//!
//! 1. **claim**: from here on there will be one completion, whatever happens.
//! 2. **record** of the claim in the journal.
//! 3. **start** of the VM, with a network by which it reaches the platform.
//! 4. **fill**: files, the session's history, storages.
//! 5. **run** the agent: it tells the platform of its events itself, and makes the checkpoint.
//! 6. **outcome** into the journal, to the reporter; then the VM goes, and the room is free again.
//!
//! | to know | read |
//! |---|---|
//! | what can be configured | `config.rs` |
//! | where jobs come from | `source.rs` |
//! | how many run at once | `admission.rs` |
//! | which VMs are ready before a job wants them, or kept for its session | `pool.rs` |
//! | how one is ended | `leash.rs`; how the service is: `phase.rs` |
//! | what it may do on the network, and what is told of that | `firewall.rs`, `network_log.rs` |
//! | what the agent is given | `inbox.rs`, `session.rs`; places outside of its home: `mount.rs` |
//! | what is on the disk, and why a completion is not lost | `journal.rs`, `report.rs` |

mod admission;
mod config;
mod context;
mod delivery;
mod dispatch;
mod endpoint;
mod firewall;
mod identity;
mod inbox;
mod job;
mod journal;
mod leash;
mod mount;
mod network_log;
mod phase;
mod pool;
mod report;
mod session;
mod source;
mod stage;
#[cfg(test)]
#[cfg(feature = "platform")]
mod tests;
mod work;

pub(crate) use config::{Config, Profile};
pub(crate) use dispatch::{Hands, Service};
pub(crate) use identity::Lock;
pub(crate) use journal::Journal;
pub(crate) use leash::End;
pub(crate) use network_log::NetworkLog;
pub(crate) use pool::size as pool_size;
pub(crate) use source::Source;
pub(crate) use source::api::{Api, probe};
#[cfg(feature = "platform")]
pub(crate) use source::local::Local;
pub(crate) use work::blank;
