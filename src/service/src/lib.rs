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
//! | sources of jobs | `source.rs`, `job_source.rs` |
//! | limits on concurrent jobs | `admission.rs` |
//! | warm VMs, and VMs parked for their sessions | `pool.rs` |
//! | sandboxes for programs, in VMs of the pool | `sandboxes.rs` |
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
mod error;
mod execution;
mod firewall;
mod identity;
mod inbox;
mod job;
mod job_source;
mod journal;
mod mount;
pub mod mount_path;
mod network_log;
mod phase;
mod pool;
mod report;
mod reuse;
mod sandboxes;
mod session;
mod shortage;
mod shutdown;
mod source;
mod stage;
#[cfg(test)]
#[cfg(feature = "platform")]
mod tests;
mod upload;

pub use admission::Resources;
pub use cancellation::{CancelReason, KillVm};
pub use config::{Config, Profile, SandboxesConfig, is_domain};
pub use dispatch::{Dependencies, Service};
pub use error::{Error, Result, Usage};
pub use execution::base_config;
pub use identity::ServiceLock;
pub use job::Images;
pub use job_source::JobSource;
pub use sandboxes::{ImageNames, PoolLauncher};
pub use source::api::probe;
