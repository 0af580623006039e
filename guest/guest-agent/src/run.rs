//! One run: set-up, the conversation with the CLI, and the outcome file.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::date::epoch_ms;
use base::error::chain;
use contract::AgentOutcome;
use guest_common::{OperationLog, RunFolder, allocate};
use mask::Masker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::child::Cli;
use crate::conversation::{CliReport, Conversation};
use crate::failure::{self, Failure};
use crate::hosted::Hosted;
use crate::limit::Phase;
use crate::service::{ServiceContext, Services};
use crate::signal::Signals;
use crate::sink::{Printer, Sink};
use crate::waker::Waker;
use crate::{Config, Error, Result, descendant, logging, outcome, privilege, shortage};

/// Disk space reserved while the CLI runs, for the run's own files afterwards.
const RESERVE: u64 = 1 << 20;

/// How long local mode waits for standard output to take the last events.
const LAST_EVENTS: Duration = Duration::from_secs(30);

/// Runs the CLI as configured. An error means that no `outcome.json` was written.
pub fn run(config: Config) -> Result<AgentOutcome> {
    let began = Instant::now();
    let signals = Signals::block()?;
    let oom_score = privilege::make_undumpable();
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
    let context = RunContext {
        config: Arc::new(config),
        masker,
        folder: Arc::clone(&folder),
        operations,
        oom_score,
        signals,
        waker: Waker::new()?,
    };
    let outcome = outcome::masked(context.execute(began), &context.masker);
    if let Some(error) = &outcome.error {
        log::error!("the run failed; exit_code={} error={error}", outcome.exit_code);
    }
    outcome::write(&outcome, draft)?;
    Ok(outcome)
}

/// State shared by all phases of a run.
pub(crate) struct RunContext {
    pub(crate) config: Arc<Config>,
    pub(crate) folder: Arc<RunFolder>,
    pub(crate) operations: Arc<OperationLog>,
    pub(crate) waker: Waker,
    pub(crate) masker: Arc<Masker>,
    oom_score: Option<File>,
    signals: Signals,
}

impl RunContext {
    fn execute(&self, began: Instant) -> AgentOutcome {
        let working_dir = match self.set_up_working_dir() {
            Ok(path) => path,
            Err(error) => return Failure::of(&error).into(),
        };
        let Some(credentials) = &self.config.platform else {
            return self.execute_local(&working_dir);
        };
        let service_context = ServiceContext {
            folder: &self.folder,
            masker: &self.masker,
            operations: &self.operations,
            waker: &self.waker,
            disk: &working_dir,
        };
        let (services, sink) = match Services::start(credentials, &service_context) {
            Ok(started) => started,
            Err(error) => return Failure::of(&error).into(),
        };
        let hosted = Hosted {
            context: self,
            credentials,
            services: &services,
            working_dir: &working_dir,
            end_requested: Cell::default(),
        };
        let outcome = hosted.execute(sink, began);
        let latest = hosted
            .end_requested
            .get()
            .map(|asked| asked + self.config.limits.phase_end(Phase::Report));
        services.end(&self.waker, latest);
        outcome
    }

    /// Local mode: runs the CLI and prints its events; makes no HTTP request.
    fn execute_local(&self, working_dir: &Path) -> AgentOutcome {
        let mut sink = Sink::Local(Printer::default());
        let report = match self.converse(working_dir, &mut sink, || None) {
            Ok(report) => report,
            Err(error) => return Failure::of(&error).into(),
        };
        if let Sink::Local(printer) = &mut sink {
            printer.print_until(Instant::now() + LAST_EVENTS);
        }
        let outcome =
            AgentOutcome { session_id: report.session.clone(), ..AgentOutcome::default() };
        let end = failure::evaluate(&report, self.config.limits.tool);
        failure::outcome_of(
            end.map_err(|failure| failure.with_reason(report.shortage.as_deref())),
            outcome,
        )
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

    /// Starts the CLI, talks to it until it exits, and kills the processes that it leaves.
    pub(crate) fn converse(
        &self,
        working_dir: &Path,
        sink: &mut Sink,
        failure: impl FnMut() -> Option<Error>,
    ) -> Result<CliReport> {
        let began = Instant::now();
        let start = || Cli::start(&self.config, &self.folder, working_dir);
        let cli = privilege::with_cli_oom_score(self.oom_score.as_ref(), start)?;
        log::info!("the agent has started; pid={}", cli.process.pid());
        let conversation = Conversation::new(cli, sink, &self.masker, self.config.limits);
        let begun = || {
            if let Some(start) = self.config.api_start {
                let duration = Duration::from_millis(epoch_ms().saturating_sub(start));
                self.operations.record_duration("api_to_cli_init", duration, None);
            }
        };
        let reserve = self.reserve();
        let mut report = conversation.run(&self.signals, &self.waker, failure, begun);
        descendant::end_all();
        if let Ok(report) = &mut report {
            let said = report.messages();
            report.shortage = shortage::describe(working_dir, &said, self.config.disk_mib);
        }
        drop(reserve);
        let end = match &report {
            Ok(report) => failure::evaluate(report, self.config.limits.tool),
            Err(error) => Err(Failure::of(error)),
        };
        let error = end.err().map(|failure| failure.text);
        self.operations.record("cli_execution", began, error.as_deref());
        report
    }

    /// Reserves disk space that the CLI cannot use. Dropping the file frees it.
    fn reserve(&self) -> Option<File> {
        let file = self.folder.scratch("reserve").ok()?;
        allocate(&file, RESERVE);
        Some(file)
    }

    /// Sleeps until `done`, which is polled after each wake-up, returns a value. `None` at the
    /// deadline `until`; an error if a signal ends the run.
    pub(crate) fn wait<T>(
        &self,
        until: Option<Instant>,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        loop {
            self.waker.drain();
            if let Some(done) = done() {
                return Ok(Some(done));
            }
            if let Some(signal) = self.signals.next(None) {
                return Err(Error::Signal { signal });
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            let mut fds = [self.signals.as_fd(), self.waker.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let timeout = until.map_or(PollTimeout::NONE, base::deadline::poll_timeout);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Wait { source: errno.into() }),
            }
        }
    }
}
