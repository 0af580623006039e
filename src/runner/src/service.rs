//! The service: takes jobs from a source and runs each in a VM of its own.
//!
//! ```text
//!  source ── offers, cancellations ──▶ main: one select! ◀── signals
//!                                        │ admits         ▲
//!                                        ▼                │ claimed, finished
//!                                      job-1a2b3c4d ──────┘
//!                                        │ outcomes: journal, then
//!                                        ▼
//!                                      report ──▶ platform
//! ```
//!
//! A job's stages, in its thread (`job.rs`, `execution.rs`):
//!
//! 1. **claim** the job. Every claim ends in exactly one completion.
//! 2. **record** the claim in the journal.
//! 3. **start** the VM, with a network over which it reaches the platform.
//! 4. **fill** the VM: files, the session's history, storages.
//! 5. **run** the agent, which sends events and the checkpoint to the platform itself.
//! 6. **outcome**: written to the journal, then sent by the reporter. The VM is parked or killed, and its
//!    resources are released.
//!
//! | subject | file |
//! |---|---|
//! | configuration | `config.rs` |
//! | sources of jobs | `source.rs` |
//! | limits on concurrent jobs | `admission.rs` |
//! | warm VMs, and VMs parked for their sessions | `pool.rs` |
//! | cancellation of a job | `cancellation.rs` |
//! | phases of the service, from running to fast shutdown | `phase.rs`, `shutdown.rs` |
//! | a job's network policy and its log | `firewall.rs`, `network_log.rs` |
//! | the agent's input | `inbox.rs`, `session.rs`; folders outside of its home: `mount.rs` |
//! | files on disk, and delivery of completions | `journal.rs`, `report.rs` |

mod admission;
mod cancellation;
mod config;
mod context;
mod dispatch;
mod endpoint;
mod execution;
mod firewall;
mod identity;
mod inbox;
mod job;
mod journal;
mod mount;
mod network_log;
mod phase;
mod pool;
mod report;
mod reuse;
mod session;
mod shutdown;
mod source;
mod stage;
#[cfg(test)]
#[cfg(feature = "platform")]
mod tests;
mod upload;

pub(crate) use cancellation::CancelReason;
pub(crate) use config::{Config, Profile};
pub(crate) use dispatch::{Dependencies, Service};
pub(crate) use execution::base_config;
pub(crate) use identity::ServiceLock;
pub(crate) use journal::Journal;
pub(crate) use network_log::NetworkLog;
pub(crate) use pool::size as pool_size;
pub(crate) use source::Source;
pub(crate) use source::api::{Api, probe};
#[cfg(feature = "platform")]
pub(crate) use source::local::Local;
