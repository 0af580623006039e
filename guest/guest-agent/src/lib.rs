//! Runs an agent's CLI in the guest, for a platform or in local mode.
//!
//! # A run
//!
//! 1. **Begin**: read the environment, make the run's folder, wait for the first heartbeat's answer.
//! 2. **Converse**: write the CLI's prompt, read its events; see `conversation`.
//! 3. **Deliver**: send the remaining events; see `delivery`.
//! 4. **Save**: make a checkpoint of the session's history and the artifacts, a partial one if the run
//!    failed; see `checkpoint`.
//! 5. **End**: send the last telemetry, write `outcome.json`, exit.
//!
//! # Threads
//!
//! ```text
//!             ┌ main: signals, CLI, limits ┐  spool   ┌ events ┐
//!    CLI ◀──▶ │                            │ ───────▶ │        │ ──┐
//!             └────────────────────────────┘          └────────┘   │
//!               ▲ waker     ┌ heartbeat ┐  ┌ telemetry ┐           ▼
//!               └────────── │           │  │           │ ─────▶ platform
//!                           └───────────┘  └───────────┘           ▲
//!                           ┌ checkpoint: history, save-N ┐ ───────┘
//!                           └─────────────────────────────┘
//! ```
//!
//! The main thread never blocks on the network, so a slow platform does not slow the CLI.
//!
//! # Invariants
//!
//! - Secrets are masked in all data that leaves, except in the history and the archives: those are
//!   restored byte for byte.
//! - The CLI and all its descendants have ended before a checkpoint is made.
//! - The CLI neither inherits this process's environment nor can read it: this process is not dumpable.
//! - However the CLI ends, its readable files are saved, within a bounded time if the run is cancelled,
//!   even if the CLI has exhausted memory or disk.
//! - Every wait has a limit, so every run ends.

mod checkpoint;
mod child;
mod cli;
mod config;
mod conversation;
mod delivery;
mod descendant;
mod error;
mod event;
mod failure;
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
mod waker;
mod worker;

pub use config::Config;
pub use error::{Error, Result};
pub use privilege::become_user;
pub use run::run;
