//! A run from its beginning to its end. The numbers are those of the crate's documentation.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_common::{OperationLog, RunFolder, chain, epoch_ms};
use mask::Masker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bell::Bell;
use crate::child::Cli;
use crate::conversation::{Conversation, Report};
use crate::ending::{self, Failure};
use crate::hosted::Hosted;
use crate::service::{Place, Services};
use crate::signal::Signals;
use crate::sink::{Printer, Sink};
use crate::{Config, Error, Outcome, Result, descendant, logging};

/// How long standard output may take no more, in local mode.
const LAST_EVENTS: Duration = Duration::from_secs(30);

/// Runs the CLI as the configuration says; an error is one that keeps even the outcome from being
/// written.
pub fn run(config: Config) -> Result<Outcome> {
    let began = Instant::now();
    let signals = Signals::take()?;
    protect();
    let folder = match &config.runtime_dir {
        Some(path) => RunFolder::at(path)?,
        None => RunFolder::open(&config.home, &config.run_id)?,
    };
    let masker =
        Arc::new(Masker::new(&config.secrets).map_err(|source| Error::Secrets { source })?);
    logging::start(&folder, &masker)?;
    let operations = Arc::new(OperationLog::open(&folder)?);
    let scene = Scene {
        config: Arc::new(config),
        masker,
        folder: Arc::new(folder),
        operations,
        signals,
        bell: Bell::new()?,
    };
    let outcome = scene.play(began).masked(&scene.masker);
    if let Some(error) = &outcome.error {
        log::error!("the run failed; exit_code={} error={error}", outcome.exit_code);
    }
    outcome.write(&scene.folder)?;
    Ok(outcome)
}

/// Keeps other processes of the same user, of which the CLI is one, from reading this one's memory
/// and environment; and makes all that the CLI leaves behind a child of this process.
fn protect() {
    if let Err(errno) = nix::sys::prctl::set_dumpable(false) {
        log::warn!("the agent could read this process's memory; error={errno}");
    }
    descendant::adopt_orphans();
}

/// What a run has.
pub(crate) struct Scene {
    pub(crate) config: Arc<Config>,
    pub(crate) folder: Arc<RunFolder>,
    pub(crate) operations: Arc<OperationLog>,
    pub(crate) bell: Bell,
    masker: Arc<Masker>,
    signals: Signals,
}

impl Scene {
    fn play(&self, began: Instant) -> Outcome {
        let working_dir = match self.set_up_working_dir() {
            Ok(path) => path,
            Err(error) => return Failure::of(&error).into(),
        };
        let Some(identity) = &self.config.platform else {
            return self.play_local(&working_dir);
        };
        let place = Place {
            folder: &self.folder,
            masker: &self.masker,
            operations: &self.operations,
            bell: &self.bell,
            disk: &working_dir,
        };
        let (services, sink) = match Services::start(identity, &place) {
            Ok(started) => started,
            Err(error) => return Failure::of(&error).into(),
        };
        let hosted =
            Hosted { scene: self, identity, services: &services, working_dir: &working_dir };
        let outcome = hosted.play(sink, began);
        services.end(&self.bell);
        outcome
    }

    /// In local mode: the CLI and nothing else.
    fn play_local(&self, working_dir: &Path) -> Outcome {
        let mut sink = Sink::Local(Printer::default());
        let report = match self.converse(working_dir, &mut sink, || None) {
            Ok(report) => report,
            Err(error) => return Failure::of(&error).into(),
        };
        if let Sink::Local(printer) = &mut sink {
            printer.print_until(Instant::now() + LAST_EVENTS);
        }
        let outcome = Outcome { session_id: report.session.clone(), ..Outcome::default() };
        outcome.with(ending::of(&report, self.config.limits.tool))
    }

    fn set_up_working_dir(&self) -> Result<PathBuf> {
        let began = Instant::now();
        let path = &self.config.working_dir;
        let made = fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let made = made.map_err(|source| Error::WorkingDirectory { path: path.clone(), source });
        let error = made.as_ref().err().map(|error| chain(error));
        self.operations.record("working_dir_setup", began, error.as_deref());
        made
    }

    /// The CLI from its start to its end, and the end of all that it started.
    pub(crate) fn converse(
        &self,
        working_dir: &Path,
        sink: &mut Sink,
        failure: impl FnMut() -> Option<Error>,
    ) -> Result<Report> {
        let began = Instant::now();
        let cli = Cli::start(&self.config, &self.folder, working_dir)?;
        log::info!("the agent has started; pid={}", cli.process.pid());
        let conversation = Conversation::new(cli, sink, &self.masker, self.config.limits);
        let begun = || {
            if let Some(start) = self.config.api_start {
                let duration = Duration::from_millis(epoch_ms().saturating_sub(start));
                self.operations.record_duration("api_to_cli_init", duration, None);
            }
        };
        let report = conversation.run(&self.signals, &self.bell, failure, begun);
        descendant::end_all();
        let end = match &report {
            Ok(report) => ending::of(report, self.config.limits.tool),
            Err(error) => Err(Failure::of(error)),
        };
        let error = end.err().map(|failure| failure.text);
        self.operations.record("cli_execution", began, error.as_deref());
        report
    }

    /// Sleeps until `done` has something, which it is asked whenever the bell rings; none when it is
    /// late, an error when a signal ends the run.
    pub(crate) fn wait<T>(
        &self,
        until: Option<Instant>,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        loop {
            self.bell.hush();
            if let Some(done) = done() {
                return Ok(Some(done));
            }
            if let Some(signal) = self.signals.next(None) {
                return Err(Error::Signal { signal });
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            let mut fds = [self.signals.as_fd(), self.bell.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let timeout = until.map_or(PollTimeout::NONE, process::poll_timeout);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Wait { source: errno.into() }),
            }
        }
    }
}
