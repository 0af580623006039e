//! Runs a task: downloads an archive, unpacks it and moves it to its target, with retries.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use archive::{ExtractOptions, Limits, Reader, TreeExtractor};
use base::thread;
use platform_client::{HttpClient, pause_after};

use crate::manifest::{Task, TaskKind};
use crate::pipe::pipe;
use crate::stage::Stage;
use crate::{Error, Result, decode, fetch, instruction};

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a connection may be silent.
    pub stall: Duration,
    /// The wait after the first failure. It doubles with each further failure.
    pub first_wait: Duration,
    /// How long a download without progress is retried.
    pub outage: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            first_wait: Duration::from_secs(1),
            outage: Duration::from_secs(120),
        }
    }
}

/// The number of attempts that an archive has even after [`Settings::outage`].
const MIN_ATTEMPTS: u32 = 3;

/// The longest wait, unless the server's `Retry-After` is longer.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The attempts that an archive has left: a minimum number, and more until the deadline.
pub(crate) struct Attempts {
    left: u32,
    wait: Duration,
    until: Instant,
    settings: Settings,
}

impl Attempts {
    /// The attempts after the first one.
    fn new(settings: &Settings) -> Self {
        let until = Instant::now() + settings.outage;
        Self { left: MIN_ATTEMPTS - 1, wait: settings.first_wait, until, settings: *settings }
    }

    /// Takes an attempt. Returns when it may begin, or `None` if none is left. `error` is the HTTP error
    /// of the last attempt.
    pub(crate) fn take(&mut self, error: Option<&platform_client::Error>) -> Option<Instant> {
        let next = Instant::now() + pause_after(error, self.wait);
        let is_allowed = self.left > 0 || next < self.until;
        self.left = self.left.saturating_sub(1);
        self.wait = (self.wait * 2).min(MAX_WAIT);
        is_allowed.then_some(next)
    }

    /// Gives back an attempt that was not used.
    pub(crate) fn give_back(&mut self) {
        self.left += 1;
    }

    /// Starts over after progress.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(&self.settings);
    }
}

/// Runs a task.
pub(crate) fn run(task: &Task, client: &HttpClient, settings: &Settings) -> Result<()> {
    let done = match &task.url {
        Some(url) => download(task, url, client, settings),
        None => Ok(()),
    };
    match done {
        Err(error) if error.is_missing() && task.kind == TaskKind::Artifact => {
            log::info!("no archive exists yet, this is the first run; {task}");
        }
        done => done?,
    }
    std::fs::create_dir_all(&task.mount)
        .map_err(|source| Error::Stage { path: task.mount.clone(), source })?;
    match task.instruction {
        Some(name) => instruction::install(name, &task.target, &task.mount),
        None => Ok(()),
    }
}

fn download(task: &Task, url: &str, client: &HttpClient, settings: &Settings) -> Result<()> {
    let mut attempts = Attempts::new(settings);
    loop {
        let stage = Stage::new(&task.target)?;
        let error = match unpack(url, client, &mut attempts, &stage) {
            Ok(mode) => return stage.move_to_target(mode),
            Err(error) => error,
        };
        drop(stage);
        if !error.is_retriable() {
            return Err(error);
        }
        let Some(next) = attempts.take(error.http_error()) else { return Err(error) };
        log::warn!("retrying; {task}: {}", base::error::chain(&error));
        client.stop().wait_until(next);
    }
}

/// Downloads and unpacks into the stage, in two threads. Returns the mode of the archive's root.
fn unpack(
    url: &str,
    client: &HttpClient,
    attempts: &mut Attempts,
    stage: &Stage<'_>,
) -> Result<Option<u32>> {
    let count = &AtomicU64::new(0);
    let options = ExtractOptions {
        any_order: true,
        is_private: true,
        normalizes_paths: true,
        ..ExtractOptions::default()
    };
    let folder = stage.open()?;
    let (writer, reader) = pipe();
    std::thread::scope(|scope| {
        let feed = move || {
            let source = fetch::open(url, client, attempts, count)?;
            writer.fill(&mut decode::open(source)?);
            Ok(())
        };
        let current = std::thread::current();
        let number = current.name().unwrap_or_default().trim_start_matches("get-");
        let fetching = thread::spawn_scoped(scope, format!("fetch-{number}"), feed)
            .map_err(|source| Error::Thread { source })?;
        let extractor = TreeExtractor::into(folder, Path::new(""), options);
        let reader = Reader::decompressed(reader, Limits::default(), count);
        let unpacked =
            archive::unpack(reader, extractor).map_err(|source| Error::Unpack { source });
        // The reader is dropped, so the other thread ends at its next buffer. Its error comes first: if
        // it could not open the archive, the error of unpacking is only a consequence.
        fetching.join().unwrap_or(Ok(())).and(unpacked)
    })
}
