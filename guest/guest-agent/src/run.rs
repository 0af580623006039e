//! A run from its beginning to its end. The numbers are those of the crate's documentation.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_common::{OperationLog, RunFolder, allocate, chain, epoch_ms};
use mask::Masker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bell::Bell;
use crate::child::Cli;
use crate::conversation::{Conversation, Report};
use crate::ending::{self, Failure};
use crate::hosted::Hosted;
use crate::limit::Part;
use crate::service::{Place, Services};
use crate::signal::Signals;
use crate::sink::{Printer, Sink};
use crate::{Config, Error, Outcome, Result, descendant, logging, outcome, privilege, shortage};

/// What is kept of the disk for the run's own files once the CLI has ended.
const RESERVE: u64 = 1 << 20;

/// How long standard output may take no more, in local mode.
const LAST_EVENTS: Duration = Duration::from_secs(30);

/// Runs the CLI as the configuration says; an error is one that keeps even the outcome from being
/// written.
pub fn run(config: Config) -> Result<Outcome> {
    let began = Instant::now();
    let signals = Signals::take()?;
    let oom_score = privilege::protect();
    descendant::adopt_orphans();
    let folder = match &config.runtime_dir {
        Some(path) => RunFolder::at(path)?,
        None => RunFolder::open(&config.home, &config.run_id)?,
    };
    let masker =
        Arc::new(Masker::new(&config.secrets).map_err(|source| Error::Secrets { source })?);
    logging::start(&folder, &masker)?;
    let operations = Arc::new(OperationLog::open(&folder)?);
    let folder = Arc::new(folder);
    let draft = outcome::draft(&folder)?;
    let scene = Scene {
        config: Arc::new(config),
        masker,
        folder: Arc::clone(&folder),
        operations,
        oom_score,
        signals,
        bell: Bell::new()?,
    };
    let outcome = scene.play(began).masked(&scene.masker);
    if let Some(error) = &outcome.error {
        log::error!("the run failed; exit_code={} error={error}", outcome.exit_code);
    }
    outcome.write(draft)?;
    Ok(outcome)
}

/// What a run has.
pub(crate) struct Scene {
    pub(crate) config: Arc<Config>,
    pub(crate) folder: Arc<RunFolder>,
    pub(crate) operations: Arc<OperationLog>,
    pub(crate) bell: Bell,
    pub(crate) masker: Arc<Masker>,
    oom_score: Option<File>,
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
        let hosted = Hosted {
            scene: self,
            identity,
            services: &services,
            working_dir: &working_dir,
            asked: Cell::default(),
        };
        let outcome = hosted.play(sink, began);
        let latest = hosted.asked.get().map(|asked| asked + self.config.limits.until(Part::Report));
        services.end(&self.bell, latest);
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
        let end = ending::of(&report, self.config.limits.tool);
        outcome.with(end.map_err(|failure| failure.because(report.shortage.as_deref())))
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
        let start = || Cli::start(&self.config, &self.folder, working_dir);
        let cli = privilege::sacrificed(self.oom_score.as_ref(), start)?;
        log::info!("the agent has started; pid={}", cli.process.pid());
        let conversation = Conversation::new(cli, sink, &self.masker, self.config.limits);
        let begun = || {
            if let Some(start) = self.config.api_start {
                let duration = Duration::from_millis(epoch_ms().saturating_sub(start));
                self.operations.record_duration("api_to_cli_init", duration, None);
            }
        };
        let reserve = self.reserve();
        let mut report = conversation.run(&self.signals, &self.bell, failure, begun);
        descendant::end_all();
        if let Ok(report) = &mut report {
            let said = report.said();
            report.shortage = shortage::describe(working_dir, &said, self.config.disk_mib);
        }
        drop(reserve);
        let end = match &report {
            Ok(report) => ending::of(report, self.config.limits.tool),
            Err(error) => Err(Failure::of(error)),
        };
        let error = end.err().map(|failure| failure.text);
        self.operations.record("cli_execution", began, error.as_deref());
        report
    }

    /// Room on the disk that the CLI cannot take: it is free again when this is dropped.
    fn reserve(&self) -> Option<File> {
        let file = self.folder.scratch("reserve").ok()?;
        allocate(&file, RESERVE);
        Some(file)
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
