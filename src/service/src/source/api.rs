//! A remote platform as a source: HTTP requests poll for jobs, claim them and send heartbeats.
//!
//! | thread | sleeps in | does |
//! |---|---|---|
//! | `poll` | its request, which the platform may hold; its channel | polls for a job while there is capacity |
//! | `push` | its subscription's channel (and `ably` in its socket) | receives jobs and cancellations as they are published |
//! | `heartbeat` | its channel | reports the runner's status every 10 s, on each change and on shutdown |
//!
//! The threads queue updates for [`Source::next_update`] and notify the main thread. Each job's own thread claims it
//! (`claim.rs`).

mod claim;
mod heartbeat;
mod poll;
mod probe;
mod push;
mod shared;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ably_subscriber::Subscription;
use base::sync::{Mutex, MutexGuard};
use contract::RunId;
use crossbeam_channel::{Receiver, Sender, bounded};
use platform_client::{
    ClientType, PlatformAddresses, PlatformClient, PlatformCredentials, RequestCancellation,
    RequestLimits,
};

use self::claim::Claims;
use self::poll::ScheduledPoll;
pub use self::probe::probe;
use self::shared::Shared;
use super::{
    Claim, Demand, DiscoveredJob, PlatformAccess, RecoveredJobs, RunnerStatus, Source, SourceKind,
    SourceUpdate,
};
use crate::config::{Api as Config, Config as Whole};
use crate::error::{Error, Result, file};
use crate::identity::RunnerIdentity;
use crate::journal::Journal;

/// How long a claim is retried while the platform does not answer.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest accepted context, in bytes. It may contain a history.
const MAX_CONTEXT: u64 = 192 << 20;

/// The platform holds a poll for up to 30 s.
const POLL_LIMITS: RequestLimits = limits(45);
const DEFAULT_LIMITS: RequestLimits = limits(30);
const HEARTBEAT_LIMITS: RequestLimits = limits(3);

const fn limits(seconds: u64) -> RequestLimits {
    RequestLimits::within(Duration::from_secs(seconds))
}

/// A remote platform.
pub(crate) struct Api {
    shared: Arc<Shared>,
    notifications: Receiver<()>,
    access: PlatformAccess,
    claims: Claims,
    claims_stop: RequestCancellation,
    stop: RequestCancellation,
    /// Ends the waits of the thread `heartbeat`, which then sends a last heartbeat.
    heartbeat_stop: RequestCancellation,
    heartbeat: Mutex<Option<JoinHandle<()>>>,
    /// Dropped to end the thread `push`.
    push_stop: Mutex<Option<Sender<Infallible>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Api {
    /// Starts the threads. The first poll waits for a demand.
    pub(crate) fn start(state_dir: &Path, whole: &Whole) -> Result<Self> {
        let config = whole.remote()?;
        let token = token(&config.token_file)?;
        let access = access(config)?;
        let runner = RunnerIdentity::next(state_dir)?;
        let credentials = PlatformCredentials {
            addresses: access.addresses.clone(),
            token,
            bypass: access.bypass.clone(),
            client_session: runner.id.to_string(),
        };
        let (stop, claims_stop) = (RequestCancellation::new(), RequestCancellation::new());
        let platform =
            |limits, stop| PlatformClient::of(ClientType::Runner, &credentials, limits, stop);
        let (polls, heartbeats) =
            (platform(POLL_LIMITS, &stop)?, platform(HEARTBEAT_LIMITS, &stop)?);
        let (tokens, claims) =
            (platform(DEFAULT_LIMITS, &stop)?, platform(DEFAULT_LIMITS, &claims_stop)?);
        let (notifier, notifications) = bounded(1);
        let (wake_poll, poll_woken) = bounded(1);
        let (wake_heartbeat, heartbeat_woken) = bounded(1);
        let shared = Arc::new(Shared {
            runner,
            name: whole.name.clone(),
            group: whole.group.clone(),
            total: whole.budget,
            max_concurrent: whole.max_concurrent,
            state: Mutex::default(),
            notifier,
            wake_poll,
            wake_heartbeat,
        });
        let api = Self {
            shared: Arc::clone(&shared),
            notifications,
            access,
            claims: Claims::new(
                claims.with_answers_of(MAX_CONTEXT),
                claims_stop.clone(),
                CLAIM_TIMEOUT,
            ),
            claims_stop,
            stop: stop.clone(),
            heartbeat_stop: RequestCancellation::new(),
            heartbeat: Mutex::default(),
            push_stop: Mutex::default(),
            threads: Mutex::default(),
        };
        if let Some(hosts) = &config.push {
            api.spawn_push(push::subscribe(&whole.group, hosts, tokens)?)?;
        }
        let poll = base::thread::spawn("poll", move || shared.run_poll(&polls, &poll_woken, &stop));
        api.threads().push(poll.map_err(thread_error("poll"))?);
        let (shared, stop) = (Arc::clone(&api.shared), api.heartbeat_stop.clone());
        let heartbeat = base::thread::spawn("heartbeat", move || {
            shared.run_heartbeat(&heartbeats, &heartbeat_woken, &stop);
        });
        *api.heartbeat.lock() = Some(heartbeat.map_err(thread_error("heartbeat"))?);
        Ok(api)
    }

    fn spawn_push(&self, subscription: Subscription) -> Result<()> {
        let (push_stop, stopped) = bounded(0);
        *self.push_stop.lock() = Some(push_stop);
        let shared = Arc::clone(&self.shared);
        let push = base::thread::spawn("push", move || shared.run_push(subscription, &stopped));
        self.threads().push(push.map_err(thread_error("push"))?);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock()
    }

    /// Sends the last heartbeat, which takes at most 3 s, and ends the thread.
    fn stop_heartbeats(&self) {
        let heartbeat = self.heartbeat.lock().take();
        let Some(heartbeat) = heartbeat else { return };
        self.shared.lock().is_stopping = true;
        self.heartbeat_stop.cancel();
        let _ = self.shared.wake_heartbeat.try_send(());
        base::thread::join(heartbeat);
    }
}

fn thread_error(name: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Thread { name, source }
}

fn access(config: &Config) -> Result<PlatformAccess> {
    let bypass = config
        .bypass
        .as_ref()
        .map(|name| std::env::var(name).map_err(|_| Error::NoBypass { name: name.clone() }));
    let mut addresses = PlatformAddresses::new(&config.urls);
    let mut authorities = None;
    if let Some(path) = &config.ca {
        addresses = addresses.trusting(path).map_err(file("use the certificates of", path))?;
        authorities = Some(fs::read_to_string(path).map_err(file("read", path))?);
    }
    Ok(PlatformAccess {
        guest_urls: config.urls.clone(),
        addresses,
        authorities,
        service: None,
        bypass: bypass.transpose()?,
        reachable: config.reachable.clone(),
    })
}

/// Reads the runner's token. Logs a warning if other users can read the file.
fn token(path: &Path) -> Result<String> {
    let token = fs::read_to_string(path).map_err(file("read", path))?;
    let mode = fs::metadata(path).map(|it| it.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        log::warn!("other users can read the runner's token: chmod 600 {}", path.display());
    }
    match token.trim() {
        "" => Err(Error::EmptyToken { path: path.to_owned() }),
        token => Ok(token.to_owned()),
    }
}

impl Source for Api {
    fn kind(&self) -> SourceKind {
        SourceKind::Api
    }

    fn notifications(&self) -> &Receiver<()> {
        &self.notifications
    }

    fn next_update(&self, demand: &Demand) -> Result<SourceUpdate> {
        let mut state = self.shared.lock();
        let cancelled = std::mem::take(&mut state.cancelled);
        let offer = state.offers.pop_front();
        let is_changed = state.demand != *demand;
        if is_changed {
            state.demand = demand.clone();
        }
        // This demand is the first that reflects the decision on the previous offer.
        let was_deciding = std::mem::replace(&mut state.is_deciding, offer.is_some());
        drop(state);
        if is_changed {
            self.shared.schedule(ScheduledPoll::now());
        } else if was_deciding {
            let _ = self.shared.wake_poll.try_send(());
        }
        Ok(SourceUpdate { offer, cancelled })
    }

    fn claim(&self, offer: &DiscoveredJob, journal: &Journal) -> Result<Option<Claim>> {
        self.claims.claim(offer, journal)
    }

    fn reoffer(&self, run: RunId) -> bool {
        let Some(offer) = self.claims.unanswered_offer(run) else { return false };
        // The platform would assign a claim before the first heartbeat to the previous process.
        if self.shared.lock().is_registered {
            self.shared.push_update(offer, Vec::new(), Instant::now());
        }
        true
    }

    fn report_status(&self, status: RunnerStatus) {
        self.shared.lock().status = Some(status);
        let _ = self.shared.wake_heartbeat.try_send(());
    }

    fn access(&self) -> &PlatformAccess {
        &self.access
    }

    fn recover(&self, journal: &Journal) -> Result<RecoveredJobs> {
        self.claims.recover(journal)
    }

    fn abort_claims(&self) {
        self.claims_stop.cancel();
    }

    fn stop(&self) {
        self.abort_claims();
        self.stop_heartbeats();
        self.stop.cancel();
        drop(self.push_stop.lock().take());
        let _ = self.shared.wake_poll.try_send(());
        let threads: Vec<_> = self.threads().drain(..).collect();
        for thread in threads {
            base::thread::join(thread);
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}
