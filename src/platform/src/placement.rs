//! Held polls, and the thread that looks for jobs for all of them at once.
//!
//! ```text
//!  poll ──▶ seat ──────────▶ waits for an offer, a cancellation, or its end
//!             │ new            ▲
//!             ▼                │ one seat for each job that was found
//!          platform-place ─────┘
//!             ▲
//!             └── notifications for work, repeated heartbeats to be written, the next time something is free
//! ```
//!
//! A look is one transaction, whatever the number of seats: a new job wakes the thread and one seat. A class of seats
//! (a group and profiles) for which nothing was found is *quiet* until the next notification: a poll of it
//! asks the database nothing.
//!
//! The thread also writes down repeated heartbeats, once a second (`presence/beat.rs`), and keeps the hint which
//! runners have anything to cancel (`placement/hint.rs`).

mod hint;
mod look;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::deadline::after;
use base::error::chain;
use base::sync::{Condvar, Mutex, MutexGuard};
use contract::Offer;
use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};
use uuid::Uuid;

use self::hint::Hint;
use crate::attempt::Wanted;
use crate::backend::Backend;
use crate::{Error, Result, RunId};

/// How long a poll waits beyond its end for the first look.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// The pause after a failed look.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// For how long the thread works for runners that were heard.
const ACTIVE: Duration = Duration::from_secs(30);

/// The most quiet classes that are remembered.
const MOST_QUIET: usize = 1000;

/// What seats have in common: their jobs are found by one query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Class {
    group: Option<String>,
    profiles: Vec<String>,
}

/// What a seat waits for.
#[derive(Debug)]
enum News {
    Offer(Offer),
    /// There may be something to cancel.
    Cancelled,
    Stopped,
}

/// A held poll.
#[derive(Debug)]
struct Seat {
    runner: Uuid,
    class: Class,
    excluded: Vec<RunId>,
    state: Mutex<SeatState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SeatState {
    is_looked: bool,
    news: Option<News>,
}

#[derive(Default)]
struct State {
    /// In the order in which they came.
    seats: BTreeMap<u64, Arc<Seat>>,
    next: u64,
    quiet: HashSet<Class>,
    /// The notifications that the last look came after.
    version: u64,
    heard: Option<Instant>,
    is_stopped: bool,
}

/// The held polls of this process.
pub(crate) struct Placement {
    state: Mutex<State>,
    hint: Mutex<Option<Hint>>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for Placement {
    fn default() -> Self {
        let (wake, woken) = bounded(1);
        Self { state: Mutex::default(), hint: Mutex::default(), wake, woken }
    }
}

impl Placement {
    /// Whether runners polled or sent heartbeats lately.
    pub(crate) fn is_active(&self) -> bool {
        let state = self.state.lock();
        !state.seats.is_empty() || state.heard.is_some_and(|heard| heard.elapsed() < ACTIVE)
    }

    /// A runner was heard: the thread works for it.
    pub(crate) fn hear(&self) {
        let was_active = {
            let mut state = self.state.lock();
            let heard = state.heard.replace(Instant::now());
            heard.is_some_and(|heard| heard.elapsed() < ACTIVE)
        };
        if !was_active {
            self.wake();
        }
    }

    /// Wakes the thread.
    pub(crate) fn wake(&self) {
        // A full channel wakes it already.
        let _ = self.wake.try_send(());
    }

    fn sit(&self, wanted: &Wanted, runner: Uuid, version: u64) -> Sitting<'_> {
        let mut profiles = wanted.profiles.clone();
        profiles.sort_unstable();
        let class = Class { group: wanted.group.clone(), profiles };
        let mut state = self.state.lock();
        let is_looked = state.version == version && state.quiet.contains(&class);
        let news = state.is_stopped.then_some(News::Stopped);
        let seat = Arc::new(Seat {
            runner,
            class,
            excluded: wanted.excluded.clone(),
            state: Mutex::new(SeatState { is_looked, news }),
            changed: Condvar::new(),
        });
        let number = state.next;
        state.next += 1;
        state.seats.insert(number, Arc::clone(&seat));
        drop(state);
        if !is_looked {
            self.wake();
        }
        Sitting { placement: self, number, seat }
    }

    fn seats(&self) -> Vec<Arc<Seat>> {
        self.state.lock().seats.values().cloned().collect()
    }

    /// Ends all waits, also later ones.
    fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        state.seats.values().for_each(|seat| seat.tell(News::Stopped));
    }
}

impl Seat {
    fn tell(&self, news: News) {
        let mut state = self.lock();
        // An offer is not forgotten for a cancellation, which the next poll gets, too.
        if !matches!(state.news, Some(News::Offer(_))) {
            state.news = Some(news);
        }
        self.changed.notify_all();
    }

    fn mark_looked(&self) {
        if !std::mem::replace(&mut self.lock().is_looked, true) {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock()
    }
}

/// A seat that is taken. Dropping it leaves it.
struct Sitting<'a> {
    placement: &'a Placement,
    number: u64,
    seat: Arc<Seat>,
}

impl Sitting<'_> {
    /// Waits for news until the deadline, and at least for one look.
    fn wait(&self, deadline: Instant) -> Option<News> {
        let mut state = self.seat.lock();
        loop {
            if let Some(news) = state.news.take() {
                return Some(news);
            }
            let until = if state.is_looked { deadline } else { deadline + FIRST_LOOK };
            if until <= Instant::now() {
                return None;
            }
            state = self.seat.changed.wait_until(state, Some(until));
        }
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        self.placement.state.lock().seats.remove(&self.number);
    }
}

impl Backend {
    /// Waits up to `hold` for a job for a runner, or for the cancellation of a job that it may run. Each
    /// cancellation is returned once.
    pub(crate) fn offer_held(
        &self,
        wanted: &Wanted,
        runner: Uuid,
        hold: Duration,
    ) -> Result<(Option<Offer>, Vec<RunId>)> {
        let deadline = after(Instant::now(), hold);
        let seat = self.placement.sit(wanted, runner, self.notifier.work_version());
        let known = self.cancelled_of(runner)?;
        loop {
            match seat.wait(deadline) {
                Some(News::Offer(offer)) => return Ok((Some(offer), Vec::new())),
                Some(News::Stopped) => return Err(Error::Stopped),
                Some(News::Cancelled) => {
                    let mut cancelled = self.cancelled_of(runner)?;
                    cancelled.retain(|run| !known.contains(run));
                    if !cancelled.is_empty() {
                        return Ok((None, cancelled));
                    }
                }
                None => return Ok((None, Vec::new())),
            }
        }
    }
}

/// The thread. It ends when the notifier stops.
pub(crate) fn run(backend: &Arc<Backend>, work: &Receiver<()>) {
    let placement = &backend.placement;
    let mut look = None;
    let mut next: Option<Instant> = None;
    loop {
        let timer = next.map_or_else(never, at);
        select! {
            recv(work) -> notification => if notification.is_err() { break },
            recv(placement.woken) -> _ => {}
            recv(timer) -> _ => {}
        }
        let flush = backend.flush_heartbeats(Instant::now());
        let hint = backend.refresh_hint();
        look = backend.look_if_needed(look);
        next = [flush, hint, look].into_iter().flatten().min();
    }
    placement.stop();
}

impl Backend {
    /// Looks for jobs if there is a reason to, which `due` may be; returns when it will be one again.
    fn look_if_needed(&self, due: Option<Instant>) -> Option<Instant> {
        let seats = self.placement.seats();
        if seats.is_empty() {
            return None;
        }
        let version = self.notifier.work_version();
        let is_changed = self.placement.state.lock().version != version;
        let is_new = seats.iter().any(|seat| !seat.lock().is_looked);
        let is_due = due.is_some_and(|due| due <= Instant::now());
        if !is_changed && !is_new && !is_due {
            return due;
        }
        let looked = match self.look(&seats) {
            Ok(looked) => looked,
            Err(error) => {
                log::warn!("cannot look for jobs; error={}", chain(&error));
                return Some(Instant::now() + AFTER_FAILURE);
            }
        };
        let mut state = self.placement.state.lock();
        if state.version != version || state.quiet.len() > MOST_QUIET {
            state.quiet.clear();
        }
        state.version = version;
        for class in looked.busy {
            state.quiet.remove(&class);
        }
        state.quiet.extend(looked.quiet);
        drop(state);
        for (number, offer) in looked.offers {
            if let Some(seat) = seats.get(number) {
                seat.tell(News::Offer(offer));
            }
        }
        seats.iter().for_each(|seat| seat.mark_looked());
        looked.again.map(|delay| Instant::now() + delay)
    }
}
