//! A task: an archive fetched, unpacked and put into its place, with another attempt where that may
//! help.

use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use guest_common::Client;

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
    /// How long to wait after the first failure; twice as long after the second.
    pub first_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stall: Duration::from_secs(60), first_wait: Duration::from_secs(1) }
    }
}

/// How many attempts an archive has.
const ATTEMPTS: u32 = 3;

/// The attempts that are left to an archive.
pub(crate) struct Attempts {
    left: u32,
}

impl Attempts {
    /// Takes one, if there is one.
    pub(crate) fn spend(&mut self) -> bool {
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    /// Gives back one that was taken for nothing.
    pub(crate) fn refund(&mut self) {
        self.left += 1;
    }

    /// As at the beginning: there was progress.
    pub(crate) fn forgive(&mut self) {
        self.left = ATTEMPTS - 1;
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
    let mut attempts = Attempts { left: ATTEMPTS };
    let mut wait = settings.first_wait;
    attempts.spend();
    loop {
        let stage = Stage::new(&task.target)?;
        match unpack(url, client, settings, &mut attempts, &stage) {
            Ok(mode) => return stage.place(mode),
            Err(error) if error.is_retriable() && attempts.spend() => {
                log::warn!("trying again; {task}: {}", guest_common::chain(&error));
            }
            Err(error) => return Err(error),
        }
        drop(stage);
        client.stop().wait_until(Instant::now() + wait);
        wait *= 2;
    }
}

/// Unpacks into the stage; fetching has a thread of its own.
fn unpack(
    url: &str,
    client: &Client,
    settings: &Settings,
    attempts: &mut Attempts,
    stage: &Stage<'_>,
) -> Result<Option<u32>> {
    let count = &AtomicU64::new(0);
    let tree = Tree::new(stage.open()?);
    let (inlet, outlet) = pipe();
    thread::scope(|scope| {
        let feed = move || {
            let source = fetch::open(url, client, settings, attempts, count)?;
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
