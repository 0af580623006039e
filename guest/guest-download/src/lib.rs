//! Downloads a run's archives into the guest, by a manifest. Archives are downloaded concurrently, and
//! each is unpacked completely or not at all.
//!
//! # The path of an archive
//!
//! ```text
//!   fetch-N                                     get-N
//!   ┌───────────────────────────────┐  buffers  ┌──────────────────────────────────────┐
//!   │ 1 fetch: HTTP, resumes        │ ────────▶ │ 3 archive::Reader: entries, limits   │
//!   │ 2 decode: gzip or zstd        │ ◀──────── │ 4 archive::TreeExtractor: files, in  │
//!   └───────────────────────────────┘   empty   │   a stage  5 stage: moved into place │
//!                                               └──────────────────────────────────────┘
//! ```
//!
//! Four threads `get-N` take tasks from one schedule. Each starts a `fetch-N` per task, so that
//! downloading and unpacking overlap.
//!
//! # Invariants
//!
//! - An archive's files appear in its target only after the whole archive is unpacked.
//! - No entry is written through a symbolic link or outside of its stage.
//! - Memory is bounded whatever a server sends: buffers are reused, names and headers have limits.
//! - Tasks on equal or nested paths never run concurrently, and run in the manifest's order.
//! - No text holds a URL.

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

pub use error::{Error, Result};
pub use manifest::Manifest;
pub use task::Settings;

use std::time::Instant;

use base::thread;
use guest_common::OperationLog;
use platform_client::{HttpClient, RequestCancellation, RequestLimits};

use crate::schedule::Schedule;

/// How many tasks run at once.
const WORKERS: usize = 4;

/// How many redirects from an archive's URL are followed.
const REDIRECTS: u32 = 5;

/// Carries out a manifest. Logs errors; returns whether there were none.
pub fn run(manifest: &Manifest, settings: &Settings, operations: Option<&OperationLog>) -> bool {
    let began = Instant::now();
    let mut success = cleanup::run(manifest);
    let limits = RequestLimits { whole: None, silence: settings.stall, redirects: REDIRECTS };
    let client = HttpClient::new(limits, &RequestCancellation::new());
    let schedule = Schedule::new(&manifest.tasks);
    let results: Vec<bool> = std::thread::scope(|scope| {
        let worker = || work(&schedule, &client, settings, operations);
        let start = |number| thread::spawn_scoped(scope, format!("get-{number}"), worker);
        let count = WORKERS.min(manifest.tasks.len());
        let workers: Vec<_> = (1..=count).map(start).collect();
        workers
            .into_iter()
            .map(|worker| worker.is_ok_and(|thread| thread.join().unwrap_or(false)))
            .collect()
    });
    success &= results.into_iter().all(|success| success) && schedule.is_done();
    if let Some(operations) = operations {
        operations.record("download_total", began, (!success).then_some("a task failed"));
    }
    success
}

/// Does tasks until none is left. Returns whether all succeeded.
fn work(
    schedule: &Schedule<'_>,
    client: &HttpClient,
    settings: &Settings,
    operations: Option<&OperationLog>,
) -> bool {
    let mut success = true;
    while let Some(scheduled) = schedule.next() {
        let task = scheduled.task();
        let began = Instant::now();
        let error = task::run(task, client, settings)
            .err()
            .map(|error| format!("{task}: {}", base::error::chain(&error)));
        if let Some(text) = &error {
            log::error!("{text}");
            success = false;
        }
        if let Some(operations) = operations {
            operations.record(task.action(), began, error.as_deref());
        }
    }
    success
}
