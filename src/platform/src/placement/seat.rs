//! The held polls of this process, in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::{Condvar, Mutex, MutexGuard};
use contract::Offer;
use crossbeam_channel::{Receiver, Sender, bounded};
use uuid::Uuid;

use crate::RunId;

/// How long a poll waits beyond its end for the first look.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// For how long the thread works for runners that were heard.
const ACTIVE: Duration = Duration::from_secs(30);

/// For how long a class is quiet. Notifications end it, but one may be lost with its platform.
const QUIET: Duration = Duration::from_secs(10);

/// The most quiet classes that are remembered.
const MOST_QUIET: usize = 1000;

/// What seats have in common: their jobs are found by one query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) group: Option<String>,
    /// In order.
    pub(super) profiles: Vec<String>,
}

/// Whose poll it is, and for which jobs.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) runner: Uuid,
    pub(super) class: Class,
    pub(super) excluded: Vec<RunId>,
}

/// What a seat waits for.
#[derive(Debug)]
pub(super) enum News {
    Offer(Offer),
    /// There may be something to cancel.
    Cancelled,
    Stopped,
}

/// A held poll.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    pub(super) ask: Ask,
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
    /// In the order in which they came. Those with an offer are not among them.
    seats: BTreeMap<u64, Arc<Seat>>,
    next: u64,
    /// The classes for which the last look found nothing, and when that was.
    quiet: HashMap<Class, Instant>,
    /// The notifications that the last look came after.
    version: u64,
    heard: Option<Instant>,
    is_stopped: bool,
}

/// The runners with jobs to cancel.
pub(super) struct Hint {
    pub(super) runners: HashSet<Uuid>,
    /// Whether any attempt has no known runner: then it may be anyone's.
    pub(super) is_any: bool,
    /// The notifications that it came after.
    pub(super) version: u64,
    pub(super) at: Instant,
}

impl Hint {
    pub(super) fn names(&self, runner: Uuid) -> bool {
        self.is_any || self.runners.contains(&runner)
    }
}

/// The held polls of this process.
pub(crate) struct Placement {
    state: Mutex<State>,
    pub(super) hint: Mutex<Option<Hint>>,
    wake: Sender<()>,
    pub(super) woken: Receiver<()>,
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
        let heard = self.state.lock().heard.replace(Instant::now());
        if heard.is_none_or(|heard| heard.elapsed() >= ACTIVE) {
            self.wake();
        }
    }

    /// Wakes the thread.
    pub(crate) fn wake(&self) {
        // A full channel wakes it already.
        let _ = self.wake.try_send(());
    }

    pub(super) fn sit(&self, ask: Ask, version: u64) -> Sitting<'_> {
        let mut state = self.state.lock();
        let is_quiet = state.quiet.get(&ask.class).is_some_and(|since| since.elapsed() < QUIET);
        let is_looked = is_quiet && state.version == version;
        let news = state.is_stopped.then_some(News::Stopped);
        let number = state.next;
        let held = Mutex::new(SeatState { is_looked, news });
        let seat = Arc::new(Seat { number, ask, state: held, changed: Condvar::new() });
        state.next += 1;
        state.seats.insert(number, Arc::clone(&seat));
        drop(state);
        if !is_looked {
            self.wake();
        }
        Sitting { placement: self, seat }
    }

    pub(super) fn seats(&self) -> Vec<Arc<Seat>> {
        self.state.lock().seats.values().cloned().collect()
    }

    /// Whether there was a notification since the last look.
    pub(super) fn is_changed(&self, version: u64) -> bool {
        self.state.lock().version != version
    }

    /// Takes down what a look found for classes, which came after these notifications.
    pub(super) fn record(&self, version: u64, quiet: Vec<Class>, busy: &[Class]) {
        let mut state = self.state.lock();
        if state.version != version || state.quiet.len() > MOST_QUIET {
            state.quiet.clear();
        }
        state.version = version;
        state.quiet.retain(|class, _| !busy.contains(class));
        let now = Instant::now();
        state.quiet.extend(quiet.into_iter().map(|class| (class, now)));
    }

    /// Gives a seat its offer. It gets no other.
    pub(super) fn give(&self, seat: &Seat, offer: Offer) {
        self.state.lock().seats.remove(&seat.number);
        seat.tell(News::Offer(offer));
    }

    /// Ends all waits, also later ones.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        state.seats.values().for_each(|seat| seat.tell(News::Stopped));
    }
}

impl Seat {
    pub(super) fn tell(&self, news: News) {
        let mut state = self.lock();
        // The poll asks for cancellations with an offer, too.
        if !matches!(state.news, Some(News::Offer(_))) {
            state.news = Some(news);
        }
        self.changed.notify_all();
    }

    pub(super) fn is_looked(&self) -> bool {
        self.lock().is_looked
    }

    pub(super) fn mark_looked(&self) {
        if !std::mem::replace(&mut self.lock().is_looked, true) {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock()
    }
}

/// A seat that is taken. Dropping it leaves it.
pub(super) struct Sitting<'a> {
    placement: &'a Placement,
    seat: Arc<Seat>,
}

impl Sitting<'_> {
    /// Waits for news until the deadline, and at least for one look.
    pub(super) fn wait(&self, deadline: Instant) -> Option<News> {
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
        self.placement.state.lock().seats.remove(&self.seat.number);
    }
}
