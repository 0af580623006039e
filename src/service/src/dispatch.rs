//! The main thread: admits jobs, enforces their time limits, and handles signals. It sleeps in one `select!`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use contract::RunId;
use crossbeam_channel::{Receiver, Sender, at, never, select, unbounded};
use nix::sys::signal::Signal;
use sandbox::SandboxFactory;

use super::admission::{Admission, Resources};
use super::cancellation::{CancelReason, JobCancellation, KillVm};
use super::config::{Config, DEFAULT_PROFILE, Profile};
use super::execution;
use super::job::{Images, Job, JobContext, JobEvent, JobOutcome};
use super::job_source::JobSource;
use super::journal::Journal;
use super::network_log::NetworkLog;
use super::phase::Phase;
use super::pool::Pool;
use super::report::{JobReport, Reporter};
use super::sandboxes::{ImageNames, PoolLauncher};
use super::shutdown;
use super::source::{Demand, DiscoveredJob, Mode, RunnerStatus};
use crate::error::Result;
use egress::ProxyPool;

/// How long a job is ignored after a lost claim race, a failed claim, no capacity, and an unknown profile.
const AFTER_LOST_RACE: Duration = Duration::from_secs(2);
const AFTER_FAILURE: Duration = Duration::from_secs(10);
const AFTER_NO_CAPACITY: Duration = Duration::from_secs(5);
const AFTER_UNKNOWN_PROFILE: Duration = Duration::from_secs(60);

/// The interval between attempts to kill a job, whose VM may not have started yet.
const KILL_INTERVAL: Duration = Duration::from_secs(5);

/// The most jobs that a poll may exclude.
const MAX_EXCLUDED: usize = 128;

/// What the service is built from.
pub struct Dependencies {
    /// The folder of the journal and of the jobs' network logs.
    pub state_dir: PathBuf,
    /// Where jobs come from.
    pub source: JobSource,
    /// Starts the VMs of jobs.
    pub factory: Arc<dyn SandboxFactory>,
    /// Kills any VM of the factory.
    pub kill_vm: KillVm,
    /// Finds the image files of profiles.
    pub images: Arc<Images>,
    /// The proxies of intercepted networks.
    pub proxies: Arc<ProxyPool>,
}

/// The service.
pub struct Service {
    profiles: BTreeMap<String, Profile>,
    cancel_grace: Duration,
    admission: Admission,
    shared: Arc<JobContext>,
    reporter: Reporter,
    kill_vm: KillVm,
    notifications: Receiver<()>,
    signals: Receiver<Signal>,
    events: Receiver<JobEvent>,
    events_tx: Sender<JobEvent>,
    running: HashMap<RunId, RunningJob>,
    /// Jobs that are ignored, each until this time.
    excluded: HashMap<RunId, Instant>,
    phase: Phase,
    last_reported: Option<RunnerStatus>,
}

/// An admitted job.
struct RunningJob {
    cancellation: Arc<JobCancellation>,
    thread: JoinHandle<()>,
    resources: Resources,
    admitted_at: Instant,
    /// Its time limit; `None` until it is claimed.
    deadline: Option<Instant>,
    /// When it is killed; `None` unless it was cancelled.
    kill_at: Option<Instant>,
}

impl Service {
    /// Recovers the jobs of an earlier process from the journal and starts the service's threads.
    pub fn new(
        config: &Config,
        dependencies: Dependencies,
        signals: Receiver<Signal>,
    ) -> Result<Self> {
        let Dependencies { state_dir, source, factory, kill_vm, images, proxies } = dependencies;
        let JobSource(source) = source;
        let journal = Journal::open(&state_dir)?;
        let network_log = NetworkLog::start(&state_dir, source.access().clone())?;
        let (reporter, reports) = Reporter::start(Arc::clone(&source), journal.clone())?;
        let recovered = source.recover(&journal)?;
        let ended = recovered.ended.into_iter().map(|record| JobReport::Outcome(Box::new(record)));
        for report in ended.chain(recovered.unanswered.into_iter().map(JobReport::UnansweredClaim))
        {
            let _ = reports.send(report);
        }
        let (events_tx, events) = unbounded();
        let pool = {
            let events_tx = events_tx.clone();
            let changed = move || drop(events_tx.send(JobEvent::SessionsChanged));
            let base_config = execution::base_config_with(Arc::clone(&images));
            Pool::start(config, factory, Arc::clone(&kill_vm), base_config, changed)?
        };
        let notifications = source.notifications().clone();
        Ok(Self {
            profiles: config.profiles.clone(),
            cancel_grace: config.cancel_grace,
            admission: Admission::new(config.budget, config.max_concurrent),
            shared: Arc::new(JobContext {
                source,
                pool: Arc::new(pool),
                images,
                journal,
                reports,
                proxies,
                network_log,
                cancel_grace: config.cancel_grace,
            }),
            reporter,
            kill_vm,
            notifications,
            signals,
            events,
            events_tx,
            running: HashMap::new(),
            excluded: HashMap::new(),
            phase: Phase::Running,
            last_reported: None,
        })
    }

    /// What starts sandboxes in the service's VMs. It stops when the service does.
    pub fn launcher(&self, config: &Config, image_names: Box<ImageNames>) -> PoolLauncher {
        let events_tx = self.events_tx.clone();
        let changed = move || drop(events_tx.send(JobEvent::ResourcesChanged));
        let (pool, images) = (Arc::clone(&self.shared.pool), Arc::clone(&self.shared.images));
        let resources = (pool, self.admission.clone());
        PoolLauncher::new(config, resources, images, image_names, Box::new(changed))
    }

    /// Runs until a signal starts the shutdown and the last job has ended.
    pub fn run(mut self) -> Result<()> {
        loop {
            // A signal that has arrived applies before the next job is taken.
            while let Ok(signal) = self.signals.try_recv() {
                self.handle_signal(signal);
            }
            if self.running.is_empty() && self.phase >= Phase::ShuttingDown {
                break;
            }
            self.take_jobs();
            self.report_status();
            let timer = self.next_deadline().map_or_else(never, at);
            select! {
                recv(self.signals) -> signal => self.handle_signal(signal.unwrap_or(Signal::SIGTERM)),
                recv(self.notifications) -> notification => if notification.is_err() {
                    log::error!("the source of jobs has ended: shutting down");
                    self.notifications = never();
                    self.enter_phase(Phase::ShuttingDown);
                },
                recv(self.events) -> event => if let Ok(event) = event { self.handle_event(event) },
                recv(timer) -> _ => {}
            }
            self.enforce_deadlines();
        }
        let Self { shared, reporter, signals, phase, .. } = self;
        let source = Arc::clone(&shared.source);
        // This drops the last sender of reports: the reporter ends once it has sent all.
        drop(shared);
        shutdown::send_last_reports(reporter, &*source, signals, phase);
        source.report_status(RunnerStatus::stopping());
        source.stop();
        Ok(())
    }

    /// Fetches updates of the source until it offers no job. Fetches at least once, for cancellations.
    fn take_jobs(&mut self) {
        loop {
            let demand = self.demand();
            let update = match self.shared.source.next_update(&demand) {
                Ok(update) => update,
                Err(error) => {
                    log::error!("cannot get jobs from the source; error={}", error.chain());
                    return;
                }
            };
            for request in update.cancelled {
                let running = self.running.get(&request.run);
                if running.is_some_and(|running| running.admitted_at <= request.requested_at) {
                    self.cancel(request.run, CancelReason::Cancelled);
                }
            }
            match update.offer {
                Some(offer) if self.phase == Phase::Running => self.admit(offer),
                _ => return,
            }
        }
    }

    fn demand(&self) -> Demand {
        if self.phase != Phase::Running {
            return Demand::default();
        }
        // Jobs that are being claimed come first: every platform still offers those.
        let claiming = self.running.iter().filter(|(_, running)| running.deadline.is_none());
        let claiming = claiming.map(|(run, _)| run);
        let claimed = self.running.iter().filter(|(_, running)| running.deadline.is_some());
        let claimed = claimed.map(|(run, _)| run);
        let excluded = claiming.chain(self.excluded.keys()).chain(claimed);
        Demand {
            profiles: self.admittable(),
            excluded: excluded.copied().take(MAX_EXCLUDED).collect(),
        }
    }

    /// The profiles of which another VM fits into the budget.
    fn admittable(&self) -> Vec<String> {
        let has_room =
            |(_, profile): &(&String, &Profile)| self.admission.has_room(profile.resources);
        self.profiles.iter().filter(has_room).map(|(name, _)| name.clone()).collect()
    }

    /// Admits an offered job, or ignores it for a while.
    fn admit(&mut self, offer: DiscoveredJob) {
        let run = offer.run;
        // A pushed job may be one that the demand excluded.
        if self.excluded.contains_key(&run) {
            return;
        }
        if self.running.contains_key(&run) {
            self.exclude(run, AFTER_NO_CAPACITY);
            return;
        }
        let name = offer.profile.as_deref().unwrap_or(DEFAULT_PROFILE);
        let Some(profile) = self.profiles.get(name).cloned() else {
            log::warn!("a job names an unknown profile; run={run} profile={name:?}");
            self.exclude(run, AFTER_UNKNOWN_PROFILE);
            return;
        };
        if !self.admission.admit(profile.resources) {
            self.exclude(run, AFTER_NO_CAPACITY);
            return;
        }
        let (resources, key) = (profile.resources, offer.reuse_key.as_deref());
        self.shared.pool.evict_for(self.admission.free().memory_mib, key);
        let cancellation = Arc::new(JobCancellation::new(Arc::clone(&self.kill_vm)));
        let job = Job {
            run,
            offer,
            profile,
            cancellation: Arc::clone(&cancellation),
            shared: Arc::clone(&self.shared),
            events: self.events_tx.clone(),
        };
        match job.start() {
            Ok(thread) => {
                let admitted_at = Instant::now();
                let running = RunningJob {
                    cancellation,
                    thread,
                    resources,
                    admitted_at,
                    deadline: None,
                    kill_at: None,
                };
                self.running.insert(run, running);
            }
            Err(error) => {
                log::error!("cannot start a job; run={run} error={}", error.chain());
                self.admission.release(resources);
                self.exclude(run, AFTER_FAILURE);
            }
        }
    }

    fn exclude(&mut self, run: RunId, time: Duration) {
        self.excluded.insert(run, Instant::now() + time);
    }

    fn handle_event(&mut self, event: JobEvent) {
        match event {
            // The main loop takes jobs and reports the new status.
            JobEvent::SessionsChanged | JobEvent::ResourcesChanged => {}
            JobEvent::Claimed { run, deadline } => {
                if let Some(running) = self.running.get_mut(&run) {
                    running.deadline = Some(deadline);
                }
            }
            JobEvent::Finished { run, outcome } => {
                let Some(running) = self.running.remove(&run) else { return };
                base::thread::join(running.thread);
                self.admission.release(running.resources);
                match outcome {
                    JobOutcome::Done => {}
                    JobOutcome::Lost => self.exclude(run, AFTER_LOST_RACE),
                    JobOutcome::Failed => self.exclude(run, AFTER_FAILURE),
                }
            }
        }
    }

    fn handle_signal(&mut self, signal: Signal) {
        let phase = self.phase.after(signal);
        if phase != self.phase {
            self.enter_phase(phase);
        }
        if phase == Phase::FastShutdown {
            self.shared.source.abort_claims();
            for running in self.running.values_mut() {
                running.kill_at = Some(Instant::now() + KILL_INTERVAL);
                running.cancellation.kill(CancelReason::Stopped);
            }
        }
    }

    fn enter_phase(&mut self, phase: Phase) {
        self.phase = phase;
        if phase >= Phase::ShuttingDown {
            self.shared.pool.close();
        }
        log::info!("{}; jobs={}", phase.describe(), self.running.len());
    }

    /// Cancels a job, and schedules its kill after the grace period.
    fn cancel(&mut self, run: RunId, reason: CancelReason) {
        let Some(running) = self.running.get_mut(&run) else { return };
        if running.kill_at.is_none() {
            log::info!("job cancelled; run={run} reason={:?}", reason.to_string());
            running.kill_at = Some(Instant::now() + self.cancel_grace);
            running.cancellation.cancel(reason);
        }
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        self.excluded.retain(|_, until| *until > now);
        let is_overdue = |running: &RunningJob| {
            running.kill_at.is_none() && running.deadline.is_some_and(|deadline| deadline <= now)
        };
        let overdue = self.running.iter().filter(|(_, running)| is_overdue(running));
        let overdue: Vec<_> = overdue.map(|(run, _)| *run).collect();
        for run in overdue {
            self.cancel(run, CancelReason::TimedOut);
        }
        for (run, running) in &mut self.running {
            if running.kill_at.is_some_and(|at| at <= now) {
                log::warn!("a cancelled job did not end, and is killed; run={run}");
                running.kill_at = Some(now + KILL_INTERVAL);
                // The reason of its cancellation stands.
                running.cancellation.kill(CancelReason::Stopped);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.running.values().filter_map(|job| job.kill_at.or(job.deadline));
        deadlines.chain(self.excluded.values().copied()).min()
    }

    fn report_status(&mut self) {
        let (allocated, running) = self.admission.allocated();
        let mode = Mode::from(self.phase);
        let profiles = if mode == Mode::Running { self.admittable() } else { Vec::new() };
        let sessions = self.shared.pool.sessions();
        let status = RunnerStatus { mode, allocated, running, profiles, sessions };
        if self.last_reported.as_ref() != Some(&status) {
            self.shared.source.report_status(status.clone());
            self.last_reported = Some(status);
        }
    }
}
