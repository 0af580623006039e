//! Runs an agent's CLI in the guest, for a platform or for somebody on this machine.
//!
//! # A run
//!
//! 1. **Begin**: the environment is read, the run's folder made, the first heartbeat heard.
//! 2. **Converse**: the CLI gets its prompt and says what it does; see `conversation`.
//! 3. **Deliver**: events that are still on their way arrive; see `delivery`.
//! 4. **Keep**: the session's history and the artifacts become a checkpoint, a partial one if the run
//!    did not succeed; see `checkpoint`.
//! 5. **End**: the last telemetry, `outcome.json`, the exit code.
//!
//! # Threads
//!
//! ```text
//!             ┌ main: signals, CLI, limits ┐  spool   ┌ events ┐
//!    CLI ◀──▶ │                            │ ───────▶ │        │ ──┐
//!             └────────────────────────────┘          └────────┘   │
//!               ▲ bell      ┌ heartbeat ┐  ┌ telemetry ┐           ▼
//!               └────────── │           │  │           │ ─────▶ platform
//!                           └───────────┘  └───────────┘           ▲
//!                           ┌ checkpoint: history, keep-N ┐ ───────┘
//!                           └─────────────────────────────┘
//! ```
//!
//! The main thread never waits for the network, so the CLI does not either.
//!
//! # Invariants
//!
//! - What leaves is masked; the history and the archives are not, as they must come back as they
//!   were.
//! - The CLI, and all that it started, has ended before a checkpoint is made.
//! - The CLI finds none of this process's environment, nor can it read it: this process is not
//!   dumpable.
//! - Whatever ends the CLI, what it leaves is kept as far as it can be read, within a time that a
//!   cancellation bounds. Memory and disk that the CLI has used up do not keep it from that.
//! - A run ends: everything that waits has a limit.

mod bell;
mod checkpoint;
mod child;
mod cli;
mod config;
mod conversation;
mod delivery;
mod descendant;
mod ending;
mod error;
mod event;
mod heartbeat;
mod hosted;
mod limit;
mod line;
mod logging;
mod metric;
mod outcome;
mod privilege;
mod run;
mod service;
mod shortage;
mod signal;
mod sink;
mod spool;
mod sys;
mod telemetry;
mod worker;

pub use config::Config;
pub use error::{Error, Result};
pub use outcome::Outcome;
pub use privilege::become_user;
pub use run::run;
