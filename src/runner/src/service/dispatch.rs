//! The main thread: admits jobs, has the clock, and obeys signals. It sleeps in one `select!`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, never, select, unbounded};
use guest_common::{Identity, Kind, Limits, Platform, Stop};
use nix::sys::signal::Signal;
use sandbox::SandboxFactory;

use super::admission::{Admission, Amount};
use super::config::{Config, DEFAULT_PROFILE, Profile};
use super::context::RunId;
use super::job::{Crew, How, Images, Job, News};
use super::journal::Journal;
use super::leash::{End, Leash, Plug};
use super::network_log::NetworkLog;
use super::phase::Phase;
use super::pool::Pool;
use super::report::{Report, Reporter};
use super::source::{Demand, Mode, Offer, Presence, Source};
use super::work;
use crate::egress::ProxyPool;
use crate::error::Result;

/// How long a job is let be that somebody else was faster to claim, that could not be claimed, that
/// there is no room for, and whose profile is not known.
const AFTER_LOSS: Duration = Duration::from_secs(2);
const AFTER_FAILURE: Duration = Duration::from_secs(10);
const WITHOUT_ROOM: Duration = Duration::from_secs(5);
const WITHOUT_PROFILE: Duration = Duration::from_secs(60);

/// How long outcomes may still be told when all jobs have ended: through a restart of the platform; and
/// when the runner is to stop at once.
const LAST_REPORTS: Duration = Duration::from_secs(60);
const LAST_REPORTS_IN_HASTE: Duration = Duration::from_secs(10);

/// Between attempts to end a job by force: its VM may just be made.
const FORCE_AGAIN: Duration = Duration::from_secs(5);

/// As many jobs as a poll may exclude.
const MOST_EXCLUDED: usize = 128;

/// A request of the reporter's.
const REPORT: Limits =
    Limits { whole: Some(Duration::from_secs(30)), silence: Duration::from_secs(30), redirects: 0 };

/// What the service works with.
pub(crate) struct Hands {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) factory: Arc<dyn SandboxFactory>,
    pub(crate) plug: Plug,
    pub(crate) images: Arc<Images>,
    pub(crate) journal: Journal,
    pub(crate) gate: Arc<ProxyPool>,
    pub(crate) network_log: NetworkLog,
}

/// The service.
pub(crate) struct Service {
    profiles: BTreeMap<String, Profile>,
    cancel_grace: Duration,
    admission: Admission,
    crew: Arc<Crew>,
    reporter: Reporter,
    plug: Plug,
    rings: Receiver<()>,
    signals: Receiver<Signal>,
    news: Receiver<News>,
    tell: Sender<News>,
    running: HashMap<RunId, Running>,
    excluded: HashMap<RunId, Instant>,
    phase: Phase,
    told: Option<Presence>,
}

/// A job that was admitted.
struct Running {
    leash: Arc<Leash>,
    thread: JoinHandle<()>,
    amount: Amount,
    /// When it was admitted.
    since: Instant,
    /// When its time is up; none while it is being claimed.
    until: Option<Instant>,
    /// When it is ended by force.
    force_at: Option<Instant>,
}

impl Service {
    /// Reports what an earlier process left, and is ready to take jobs.
    pub(crate) fn new(config: &Config, hands: Hands, signals: Receiver<Signal>) -> Result<Self> {
        let Hands { source, factory, plug, images, journal, gate, network_log } = hands;
        let stop = Stop::new();
        // Each report has its own run's identity: this one only brings the connections.
        let nobody = Identity {
            url: source.access().url.clone(),
            token: String::new(),
            bypass: None,
            run_id: String::new(),
        };
        let platform = Platform::of(Kind::Runner, &nobody, REPORT, &stop)?;
        let (reporter, reports) =
            Reporter::start(platform, stop, Arc::clone(&source), journal.clone())?;
        let left = source.recover(&journal)?;
        let ended = left.ended.into_iter().map(|record| Report::Outcome(Box::new(record)));
        for report in ended.chain(left.unanswered.into_iter().map(Report::Unanswered)) {
            let _ = reports.send(report);
        }
        let (tell, news) = unbounded();
        let pool = {
            let (images, tell) = (Arc::clone(&images), tell.clone());
            let blank = move |profile: &Profile| work::blank(profile, images(profile)?);
            let changed = move || drop(tell.send(News::Held));
            Pool::start(config, factory, Arc::clone(&plug), Arc::new(blank), changed)?
        };
        let rings = source.rings().clone();
        Ok(Self {
            profiles: config.profiles.clone(),
            cancel_grace: config.cancel_grace,
            admission: Admission::new(config.budget, config.max_concurrent),
            crew: Arc::new(Crew {
                source,
                pool,
                images,
                journal,
                reports,
                gate,
                network_log,
                cancel_grace: config.cancel_grace,
            }),
            reporter,
            plug,
            rings,
            signals,
            news,
            tell,
            running: HashMap::new(),
            excluded: HashMap::new(),
            phase: Phase::Running,
            told: None,
        })
    }

    /// Serves until it is told to leave and the last job has ended.
    pub(crate) fn serve(mut self) -> Result<()> {
        loop {
            // Whoever was told to take no more takes none that came after that.
            while let Ok(signal) = self.signals.try_recv() {
                self.obey(signal);
            }
            if self.running.is_empty() && self.phase >= Phase::Leaving {
                break;
            }
            self.take_jobs();
            self.tell_presence();
            let alarm = self.next_alarm().map_or_else(never, at);
            select! {
                recv(self.signals) -> signal => self.obey(signal.unwrap_or(Signal::SIGTERM)),
                recv(self.rings) -> ring => if ring.is_err() {
                    log::error!("there will be no more jobs: the platform has gone");
                    self.rings = never();
                    self.enter(Phase::Leaving);
                },
                recv(self.news) -> news => if let Ok(news) = news { self.hear(news) },
                recv(alarm) -> _ => {}
            }
            self.look_at_the_clock();
        }
        let Self { crew, reporter, mut signals, phase, .. } = self;
        let source = Arc::clone(&crew.source);
        // With it goes the last sender of reports, so the reporter ends when it has told all.
        drop(crew);
        let patience = if phase == Phase::Stopping { LAST_REPORTS_IN_HASTE } else { LAST_REPORTS };
        let mut end = Instant::now() + patience;
        loop {
            select! {
                recv(reporter.done()) -> _ => break,
                recv(at(end)) -> _ => break,
                recv(signals) -> signal => match signal.map(|signal| phase.after(signal)) {
                    Ok(Phase::Stopping) => {
                        source.give_up_claims();
                        end = end.min(Instant::now() + LAST_REPORTS_IN_HASTE);
                    }
                    Ok(_) => {}
                    Err(_) => signals = never(),
                },
            }
        }
        reporter.stop();
        source.tell(Presence::stopping());
        source.stop();
        Ok(())
    }

    /// Looks for jobs as long as there is room and they come; and for cancellations once at least.
    fn take_jobs(&mut self) {
        loop {
            let demand = self.demand();
            let news = match self.crew.source.look(&demand) {
                Ok(news) => news,
                Err(error) => {
                    log::error!("cannot look for jobs; error={}", error.chain());
                    return;
                }
            };
            for cancelled in news.cancelled {
                let running = self.running.get(&cancelled.run);
                if running.is_some_and(|running| running.since <= cancelled.asked) {
                    self.end(cancelled.run, End::Cancelled);
                }
            }
            match news.offer {
                Some(offer) if self.phase == Phase::Running => self.consider(offer),
                _ => return,
            }
        }
    }

    fn demand(&self) -> Demand {
        if self.phase != Phase::Running {
            return Demand::default();
        }
        // Those that are not claimed yet are offered by any platform, so they come first.
        let claiming = self.running.iter().filter(|(_, running)| running.until.is_none());
        let claiming = claiming.map(|(run, _)| run);
        let claimed = self.running.iter().filter(|(_, running)| running.until.is_some());
        let claimed = claimed.map(|(run, _)| run);
        let excluded = claiming.chain(self.excluded.keys()).chain(claimed);
        Demand {
            profiles: self.admittable(),
            excluded: excluded.copied().take(MOST_EXCLUDED).collect(),
        }
    }

    /// The profiles that there is room for.
    fn admittable(&self) -> Vec<String> {
        let has_room = |(_, profile): &(&String, &Profile)| self.admission.has_room(profile.amount);
        self.profiles.iter().filter(has_room).map(|(name, _)| name.clone()).collect()
    }

    /// Admits a job, or lets it be for a while.
    fn consider(&mut self, offer: Offer) {
        let run = offer.run;
        // What is pushed was not asked for.
        if self.excluded.contains_key(&run) {
            return;
        }
        if self.running.contains_key(&run) {
            self.exclude(run, WITHOUT_ROOM);
            return;
        }
        let name = offer.profile.as_deref().unwrap_or(DEFAULT_PROFILE);
        let Some(profile) = self.profiles.get(name).cloned() else {
            log::warn!("a job wants a profile that is not there; run={run} profile={name:?}");
            self.exclude(run, WITHOUT_PROFILE);
            return;
        };
        if !self.admission.admit(profile.amount) {
            self.exclude(run, WITHOUT_ROOM);
            return;
        }
        let (amount, key) = (profile.amount, offer.reuse_key.as_deref());
        self.crew.pool.make_room(self.admission.free().memory_mib, key);
        let leash = Arc::new(Leash::new(Arc::clone(&self.plug)));
        let job = Job {
            run,
            offer,
            profile,
            leash: Arc::clone(&leash),
            crew: Arc::clone(&self.crew),
            news: self.tell.clone(),
        };
        match job.start() {
            Ok(thread) => {
                let since = Instant::now();
                let running = Running { leash, thread, amount, since, until: None, force_at: None };
                self.running.insert(run, running);
            }
            Err(error) => {
                log::error!("a job is let be; run={run} error={}", error.chain());
                self.admission.release(amount);
                self.exclude(run, AFTER_FAILURE);
            }
        }
    }

    fn exclude(&mut self, run: RunId, time: Duration) {
        self.excluded.insert(run, Instant::now() + time);
    }

    fn hear(&mut self, news: News) {
        match news {
            // It is told with the rest.
            News::Held => {}
            News::Claimed { run, until } => {
                if let Some(running) = self.running.get_mut(&run) {
                    running.until = Some(until);
                }
            }
            News::Over { run, how } => {
                let Some(running) = self.running.remove(&run) else { return };
                if running.thread.join().is_err() {
                    log::error!("a thread panicked: this is a bug; thread=job-{}", run.short());
                }
                self.admission.release(running.amount);
                match how {
                    How::Done => {}
                    How::Lost => self.exclude(run, AFTER_LOSS),
                    How::Failed => self.exclude(run, AFTER_FAILURE),
                }
            }
        }
    }

    fn obey(&mut self, signal: Signal) {
        let phase = self.phase.after(signal);
        if phase != self.phase {
            self.enter(phase);
        }
        if phase == Phase::Stopping {
            self.crew.source.give_up_claims();
            for running in self.running.values_mut() {
                running.force_at = Some(Instant::now() + FORCE_AGAIN);
                running.leash.force(End::Stopped);
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        if phase >= Phase::Leaving {
            self.crew.pool.close();
        }
        log::info!("{}; jobs={}", phase.describe(), self.running.len());
    }

    /// Asks a job to end, and sees to it that it does.
    fn end(&mut self, run: RunId, end: End) {
        let Some(running) = self.running.get_mut(&run) else { return };
        if running.force_at.is_none() {
            log::info!("a job is asked to end; run={run} reason={:?}", end.to_string());
            running.force_at = Some(Instant::now() + self.cancel_grace);
            running.leash.ask(end);
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        self.excluded.retain(|_, until| *until > now);
        let is_up = |running: &Running| {
            running.force_at.is_none() && running.until.is_some_and(|until| until <= now)
        };
        let late = self.running.iter().filter(|(_, running)| is_up(running));
        let late: Vec<_> = late.map(|(run, _)| *run).collect();
        for run in late {
            self.end(run, End::TimedOut);
        }
        for (run, running) in &mut self.running {
            if running.force_at.is_some_and(|at| at <= now) {
                log::warn!("a job did not end when it was asked to, and is killed; run={run}");
                running.force_at = Some(now + FORCE_AGAIN);
                // It was asked to end, with a reason that stands.
                running.leash.force(End::Stopped);
            }
        }
    }

    fn next_alarm(&self) -> Option<Instant> {
        let of_jobs = self.running.values().filter_map(|one| one.force_at.or(one.until));
        of_jobs.chain(self.excluded.values().copied()).min()
    }

    fn tell_presence(&mut self) {
        let (taken, running) = self.admission.taken();
        let mode = Mode::from(self.phase);
        let profiles = if mode == Mode::Running { self.admittable() } else { Vec::new() };
        let held = self.crew.pool.held();
        let presence = Presence { mode, taken, running, profiles, held };
        if self.told.as_ref() != Some(&presence) {
            self.crew.source.tell(presence.clone());
            self.told = Some(presence);
        }
    }
}
