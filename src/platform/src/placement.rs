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
//! (a group and profiles) for which nothing was found is *quiet* until the next notification, or a while: a poll of it
//! asks the database nothing. Seats are in memory (`placement/seat.rs`), reservations in the database: a job whose runner
//! does not come is looked for again when its reservation ends.
//!
//! The thread also writes down repeated heartbeats, once a second (`presence/beat.rs`), and keeps the hint which
//! runners have anything to cancel (`placement/hint.rs`).

mod hint;
mod look;
mod seat;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::deadline::after;
use base::error::chain;
use contract::Offer;
use crossbeam_channel::{Receiver, at, never, select};
use uuid::Uuid;

pub(crate) use self::seat::Placement;
use self::seat::{Ask, Class, News};
use crate::attempt::Wanted;
use crate::backend::Backend;
use crate::{Error, Result, RunId};

/// The pause after a failed look.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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
        let mut profiles = wanted.profiles.clone();
        profiles.sort_unstable();
        let class = Class { group: wanted.group.clone(), profiles };
        let ask = Ask { runner, class, excluded: wanted.excluded.clone() };
        let known = self.cancelled_of(runner)?;
        let seat = self.placement.sit(ask, self.notifier.work_version());
        loop {
            let offer = match seat.wait(deadline) {
                Some(News::Offer(offer)) => Some(offer),
                Some(News::Cancelled) => None,
                Some(News::Stopped) => return Err(Error::Stopped),
                None => return Ok((None, Vec::new())),
            };
            let mut cancelled = self.cancelled_of(runner)?;
            cancelled.retain(|run| !known.contains(run));
            if offer.is_some() || !cancelled.is_empty() {
                return Ok((offer, cancelled));
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
        let is_changed = self.placement.is_changed(version);
        let is_new = seats.iter().any(|seat| !seat.is_looked());
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
        self.placement.record(version, looked.quiet, &looked.busy);
        for (number, offer) in looked.offers {
            if let Some(seat) = seats.get(number) {
                self.placement.give(seat, offer);
            }
        }
        seats.iter().for_each(|seat| seat.mark_looked());
        looked.again.map(|delay| Instant::now() + delay)
    }
}
