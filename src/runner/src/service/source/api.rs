//! A platform elsewhere as a source: jobs are polled for, claims and heartbeats are requests.
//!
//! | thread | sleeps in | does |
//! |---|---|---|
//! | `poll` | its request, which the platform may hold; its channel | asks for a job whenever there is room for one |
//! | `push` | its subscription's channel (and `ably` in its socket) | hears of jobs and cancellations as they are published |
//! | `heartbeat` | its channel | says how this runner is, every 10 s and on each change, and that it stops |
//!
//! What they hear is put down for [`Source::look`], and the bell rung. A claim is a request of its job's
//! own thread (`claim.rs`).

mod claim;
mod heartbeat;
mod poll;
mod probe;
mod push;
mod shared;

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use guest_common::{Identity, Kind as Caller, Limits, Platform, Stop};

use self::claim::Claims;
use self::poll::Due;
pub(crate) use self::probe::probe;
use self::shared::Shared;
use super::{Access, Claim, Demand, Kind, Left, News, Offer, Presence, Source};
use crate::error::{Error, Result, file};
use crate::service::config::{Api as Config, Config as Whole};
use crate::service::context::RunId;
use crate::service::identity::Identity as Runner;
use crate::service::journal::Journal;

/// How long a claim is tried while the platform does not answer.
const CLAIM: Duration = Duration::from_secs(60);

/// The longest context that makes sense: a history may be in it.
const LONGEST_CONTEXT: u64 = 192 << 20;

/// A poll is held for up to 30 s.
const POLL: Limits = limits(45);
const ORDINARY: Limits = limits(30);
const HEARTBEAT: Limits = limits(3);

const fn limits(seconds: u64) -> Limits {
    let time = Duration::from_secs(seconds);
    Limits { whole: Some(time), silence: time, redirects: 0 }
}

/// A platform elsewhere.
pub(crate) struct Api {
    shared: Arc<Shared>,
    rings: Receiver<()>,
    access: Access,
    claims: Claims,
    claims_stop: Stop,
    stop: Stop,
    /// Ends the heartbeats, before `stop` ends their requests.
    leave: Stop,
    heartbeat: Mutex<Option<JoinHandle<()>>>,
    /// The end of the thread `push`.
    listening: Mutex<Option<Sender<Infallible>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Api {
    /// Starts its threads. Nothing is asked for before there is a demand.
    pub(crate) fn start(state_dir: &Path, whole: &Whole, config: &Config) -> Result<Self> {
        let token = token(&config.token_file)?;
        let access = access(config)?;
        let runner = Runner::next(state_dir)?;
        let identity = Identity {
            url: access.url.clone(),
            token,
            bypass: access.bypass.clone(),
            run_id: runner.id.to_string(),
        };
        let (stop, claims_stop) = (Stop::new(), Stop::new());
        let platform = |limits, stop| Platform::of(Caller::Runner, &identity, limits, stop);
        let (polls, beats) = (platform(POLL, &stop)?, platform(HEARTBEAT, &stop)?);
        let (tokens, claims) = (platform(ORDINARY, &stop)?, platform(ORDINARY, &claims_stop)?);
        let (bell, rings) = bounded(1);
        let (wake_poll, poll_woken) = bounded(1);
        let (wake_beat, beat_woken) = bounded(1);
        let shared = Arc::new(Shared {
            runner,
            name: whole.name.clone(),
            group: whole.group.clone(),
            total: whole.budget,
            most: whole.max_concurrent,
            heard: Mutex::default(),
            bell,
            wake_poll,
            wake_beat,
        });
        let api = Self {
            shared: Arc::clone(&shared),
            rings,
            access,
            claims: Claims::new(
                claims.with_answers_of(LONGEST_CONTEXT),
                claims_stop.clone(),
                CLAIM,
            ),
            claims_stop,
            stop: stop.clone(),
            leave: Stop::new(),
            heartbeat: Mutex::default(),
            listening: Mutex::default(),
            threads: Mutex::default(),
        };
        if let Some(hosts) = &config.push {
            let subscription = push::subscribe(&whole.group, hosts, tokens)?;
            let (listening, stopped) = bounded(0);
            *api.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listening);
            let shared = Arc::clone(&shared);
            let push = spawn("push", move || shared.listen(subscription, &stopped))?;
            api.threads().push(push);
        }
        let (poll, beat) = (Arc::clone(&shared), shared);
        let poll = spawn("poll", move || poll.poll(&polls, &poll_woken, &stop))?;
        api.threads().push(poll);
        let leave = api.leave.clone();
        let heartbeat = spawn("heartbeat", move || beat.beat(&beats, &beat_woken, &leave))?;
        *api.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(heartbeat);
        Ok(api)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the last heartbeat is told, which has a limit of 3 s.
    fn end_heartbeats(&self) {
        let heartbeat = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(heartbeat) = heartbeat else { return };
        self.shared.lock().is_leaving = true;
        self.leave.signal();
        let _ = self.shared.wake_beat.try_send(());
        join(heartbeat);
    }
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|source| Error::Thread { name, source })
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread panicked: this is a bug; thread=poll, push or heartbeat");
    }
}

fn access(config: &Config) -> Result<Access> {
    let bypass = config
        .bypass
        .as_ref()
        .map(|name| std::env::var(name).map_err(|_| Error::NoBypass { name: name.clone() }));
    Ok(Access {
        guest_url: config.url.clone(),
        url: config.url.clone(),
        service: None,
        bypass: bypass.transpose()?,
        reachable: config.reachable.clone(),
    })
}

/// The runner's token, with a warning if others could read it, too.
fn token(path: &Path) -> Result<String> {
    let token = fs::read_to_string(path).map_err(file("read", path))?;
    let mode = fs::metadata(path).map(|it| it.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        log::warn!("others may read the runner's token: chmod 600 {}", path.display());
    }
    match token.trim() {
        "" => Err(Error::EmptyToken { path: path.to_owned() }),
        token => Ok(token.to_owned()),
    }
}

impl Source for Api {
    fn kind(&self) -> Kind {
        Kind::Api
    }

    fn rings(&self) -> &Receiver<()> {
        &self.rings
    }

    fn look(&self, demand: &Demand) -> Result<News> {
        let mut heard = self.shared.lock();
        let cancelled = std::mem::take(&mut heard.cancelled);
        let offer = heard.offers.pop_front();
        let is_changed = heard.demand != *demand;
        if is_changed {
            heard.demand = demand.clone();
        }
        // This demand is the first to tell what became of the offer before.
        let was_deciding = std::mem::replace(&mut heard.is_deciding, offer.is_some());
        drop(heard);
        if is_changed {
            self.shared.schedule(Due::now());
        } else if was_deciding {
            let _ = self.shared.wake_poll.try_send(());
        }
        Ok(News { offer, cancelled })
    }

    fn claim(&self, offer: &Offer, journal: &Journal) -> Result<Option<Claim>> {
        self.claims.claim(offer, journal)
    }

    fn offer_again(&self, run: RunId) -> bool {
        let Some(offer) = self.claims.open_offer(run) else { return false };
        // What is claimed before the first heartbeat would belong to the process before.
        if self.shared.lock().is_introduced {
            self.shared.put_down(offer, Vec::new(), Instant::now());
        }
        true
    }

    fn tell(&self, presence: Presence) {
        self.shared.lock().presence = Some(presence);
        let _ = self.shared.wake_beat.try_send(());
    }

    fn access(&self) -> &Access {
        &self.access
    }

    fn recover(&self, journal: &Journal) -> Result<Left> {
        self.claims.recover(journal)
    }

    fn give_up_claims(&self) {
        self.claims_stop.signal();
    }

    fn stop(&self) {
        self.give_up_claims();
        self.end_heartbeats();
        self.stop.signal();
        drop(self.listening.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.shared.wake_poll.try_send(());
        let threads: Vec<_> = self.threads().drain(..).collect();
        threads.into_iter().for_each(join);
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}
