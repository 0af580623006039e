//! Fetches a run's archives into the guest: as a manifest says, several at once, all or nothing
//! each.
//!
//! # An archive's way
//!
//! ```text
//!   fetch-N                                     get-N
//!   ┌───────────────────────────────┐  buffers  ┌──────────────────────────────────────┐
//!   │ 1 fetch: HTTP, resumes        │ ────────▶ │ 3 archive: tar entries, limits       │
//!   │ 2 decode: gzip or zstd        │ ◀──────── │ 4 tree: files, in a stage beside the │
//!   └───────────────────────────────┘   empty   │   target   5 stage: moved into place │
//!                                               └──────────────────────────────────────┘
//! ```
//!
//! Four workers `get-N` take tasks from one schedule; each has a `fetch-N` beside it as long as
//! a task lasts, so that reading and unpacking overlap.
//!
//! # Invariants
//!
//! - Nothing of an archive is seen in its target before all of it is there.
//! - No entry is written through a symbolic link or outside of its stage: the kernel refuses.
//! - Memory is bounded whatever a server sends: buffers go round, names and headers have limits.
//! - Tasks on equal or nested paths never run at once, and run in the manifest's order.
//! - No text holds a URL.

mod archive;
mod cleanup;
mod decode;
mod error;
mod fetch;
mod instruction;
mod manifest;
mod merge;
mod pipe;
mod schedule;
mod stage;
mod sys;
mod task;
mod tree;

pub use error::{Error, Result};
pub use manifest::Manifest;
pub use task::Settings;

use std::thread;
use std::time::Instant;

use guest_common::{Client, Limits, OperationLog, Stop};

use crate::schedule::Schedule;

/// How many tasks run at once.
const WORKERS: usize = 4;

/// How many redirects from an archive's URL are followed.
const REDIRECTS: u32 = 5;

/// Does everything that the manifest says; true if all of it succeeded. What failed is logged.
pub fn run(manifest: &Manifest, settings: &Settings, operations: Option<&OperationLog>) -> bool {
    let began = Instant::now();
    let mut well = cleanup::run(manifest);
    let limits = Limits { whole: None, silence: settings.stall, redirects: REDIRECTS };
    let client = Client::new(limits, &Stop::new());
    let schedule = Schedule::new(&manifest.tasks);
    let results: Vec<bool> = thread::scope(|scope| {
        let worker = || work(&schedule, &client, settings, operations);
        let start = |number| {
            let builder = thread::Builder::new().name(format!("get-{number}"));
            builder.spawn_scoped(scope, worker)
        };
        let count = WORKERS.min(manifest.tasks.len());
        let workers: Vec<_> = (1..=count).map(start).collect();
        workers
            .into_iter()
            .map(|worker| worker.is_ok_and(|thread| thread.join().unwrap_or(false)))
            .collect()
    });
    well &= results.into_iter().all(|all_well| all_well) && schedule.is_done();
    if let Some(operations) = operations {
        operations.record("download_total", began, (!well).then_some("not everything came"));
    }
    well
}

/// Does tasks until none is left; true if all succeeded.
fn work(
    schedule: &Schedule<'_>,
    client: &Client,
    settings: &Settings,
    operations: Option<&OperationLog>,
) -> bool {
    let mut well = true;
    while let Some(turn) = schedule.next() {
        let began = Instant::now();
        let error = task::run(turn.task(), client, settings)
            .err()
            .map(|error| format!("{}: {}", turn.task(), guest_common::chain(&error)));
        if let Some(text) = &error {
            log::error!("{text}");
            well = false;
        }
        if let Some(operations) = operations {
            operations.record(turn.task().action(), began, error.as_deref());
        }
    }
    well
}
