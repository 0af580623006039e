//! A task: an archive fetched, unpacked and put into its place, with another attempt where that may
//! help.

use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use guest_common::{Client, pause_after};

use crate::archive::Archive;
use crate::manifest::{Kind, Task};
use crate::pipe::pipe;
use crate::stage::Stage;
use crate::tree::Tree;
use crate::{Error, Result, decode, fetch, instruction};

/// How patient to be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a connection may be silent.
    pub stall: Duration,
    /// How long to wait after the first failure; then twice as long after each.
    pub first_wait: Duration,
    /// How long an archive is tried again that makes no progress.
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

/// How many attempts an archive has, however long they take.
const ATTEMPTS: u32 = 3;

/// No wait is longer than this, unless the server says so.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The attempts that are left to an archive: so many, and more until the outage has lasted too long.
pub(crate) struct Attempts {
    left: u32,
    wait: Duration,
    until: Instant,
    settings: Settings,
}

impl Attempts {
    /// The first one is taken.
    fn new(settings: &Settings) -> Self {
        let until = Instant::now() + settings.outage;
        Self { left: ATTEMPTS - 1, wait: settings.first_wait, until, settings: *settings }
    }

    /// Takes one, if there is one: it may begin at this time. `error` is why the last one failed,
    /// if the server had something to say.
    pub(crate) fn spend(&mut self, error: Option<&guest_common::Error>) -> Option<Instant> {
        let next = Instant::now() + pause_after(error, self.wait);
        let some = self.left > 0 || next < self.until;
        self.left = self.left.saturating_sub(1);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        some.then_some(next)
    }

    /// Gives back one that was taken for nothing.
    pub(crate) fn refund(&mut self) {
        self.left += 1;
    }

    /// As at the beginning: there was progress.
    pub(crate) fn forgive(&mut self) {
        *self = Self::new(&self.settings);
    }
}

/// Does a task.
pub(crate) fn run(task: &Task, client: &Client, settings: &Settings) -> Result<()> {
    let done = match &task.url {
        Some(url) => fetch_and_place(task, url, client, settings),
        None => Ok(()),
    };
    match done {
        Err(error) if error.is_missing() && task.kind == Kind::Artifact => {
            log::info!("there is nothing yet: the first run; {task}");
        }
        done => done?,
    }
    let there = std::fs::create_dir_all(&task.mount);
    there.map_err(|source| Error::Stage { path: task.mount.clone(), source })?;
    match task.instruction {
        Some(name) => instruction::install(name, &task.target, &task.mount),
        None => Ok(()),
    }
}

fn fetch_and_place(task: &Task, url: &str, client: &Client, settings: &Settings) -> Result<()> {
    let mut attempts = Attempts::new(settings);
    loop {
        let stage = Stage::new(&task.target)?;
        let error = match unpack(url, client, &mut attempts, &stage) {
            Ok(mode) => return stage.place(mode),
            Err(error) => error,
        };
        drop(stage);
        if !error.is_retriable() {
            return Err(error);
        }
        let Some(next) = attempts.spend(error.of_server()) else { return Err(error) };
        log::warn!("trying again; {task}: {}", guest_common::chain(&error));
        client.stop().wait_until(next);
    }
}

/// Unpacks into the stage; fetching has a thread of its own.
fn unpack(
    url: &str,
    client: &Client,
    attempts: &mut Attempts,
    stage: &Stage<'_>,
) -> Result<Option<u32>> {
    let count = &AtomicU64::new(0);
    let tree = Tree::new(stage.open()?);
    let (inlet, outlet) = pipe();
    thread::scope(|scope| {
        let feed = move || {
            let source = fetch::open(url, client, attempts, count)?;
            inlet.fill(&mut decode::open(source)?);
            Ok(())
        };
        let name = thread::current().name().unwrap_or_default().replace("get", "fetch");
        let thread = thread::Builder::new().name(name);
        let fetching =
            thread.spawn_scoped(scope, feed).map_err(|source| Error::Thread { source })?;
        let unpacked = tree.unpack(&mut Archive::new(outlet, count));
        // The outlet is gone, so the other thread ends at its next buffer. An archive that could not
        // be opened is why it ended for the one that unpacks, not the other way round.
        fetching.join().unwrap_or(Ok(())).and(unpacked)
    })
}
