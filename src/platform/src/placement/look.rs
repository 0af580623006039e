//! One look for jobs for all seats: the oldest job goes to the seat that waited longest, of those that may have it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use contract::Offer;
use uuid::Uuid;

use super::seat::{Class, Seat};
use crate::Result;
use crate::attempt::{HOLDER, RESERVED, SILENT};
use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{List, Outcome, ToValue, Tx};
use crate::health::{self, AVOIDED, Admission};

/// How many jobs a query has beside one for each seat: a seat may exclude 128, and others may be reserved.
const SPARE: usize = 512;

/// The pause after a look in which another platform was faster.
const AFTER_RACE: Duration = Duration::from_millis(20);

/// Offers by the numbers of their seats.
type Offers = Vec<(usize, Offer)>;

/// What a look found.
pub(super) struct Looked {
    pub(super) offers: Offers,
    /// The classes without any job, and the others.
    pub(super) quiet: Vec<Class>,
    pub(super) busy: Vec<Class>,
    /// When there may be more without a notification.
    pub(super) again: Option<Duration>,
}

/// A job that waits.
struct Candidate {
    offer: Offer,
    /// The only runner that it is for now: it was offered to that, or that has its session's VM.
    only: Option<Uuid>,
    other: Option<Uuid>,
    has_attempts: bool,
    classes: HashSet<usize>,
}

/// The seats with their classes.
struct Room {
    seats: Vec<Arc<Seat>>,
    classes: Vec<Class>,
    /// The class of each seat.
    class_of: Vec<usize>,
}

impl Room {
    fn of(seats: &[Arc<Seat>]) -> Self {
        let mut numbers: HashMap<&Class, usize> = HashMap::new();
        let mut classes = Vec::new();
        let mut class_of = Vec::new();
        for seat in seats {
            let number = *numbers.entry(&seat.ask.class).or_insert_with(|| {
                classes.push(seat.ask.class.clone());
                classes.len() - 1
            });
            class_of.push(number);
        }
        Self { seats: seats.to_vec(), classes, class_of }
    }

    fn count(&self, class: usize) -> usize {
        self.class_of.iter().filter(|one| **one == class).count()
    }
}

/// Why runners do not get jobs.
struct Bars {
    admissions: HashMap<Uuid, Admission>,
    failures: HashSet<(i64, Uuid)>,
}

impl Backend {
    pub(super) fn look(&self, seats: &[Arc<Seat>]) -> Result<Looked> {
        let room = Room::of(seats);
        let affinity = self.config.affinity;
        self.db.write_relaxed("place jobs", move |tx| {
            let mut candidates = BTreeMap::new();
            let (mut quiet, mut busy) = (Vec::new(), Vec::new());
            for (number, class) in room.classes.iter().enumerate() {
                let most = room.count(number) + SPARE;
                let count = find(tx, (number, class), (affinity, most), &mut candidates)?;
                if count == 0 { &mut quiet } else { &mut busy }.push(class.clone());
            }
            let (offers, again) = place(tx, &room, candidates)?;
            let again = again.map(|delay| delay.min(affinity.max(AFTER_RACE)));
            Ok(Looked { offers, quiet, busy, again })
        })
    }
}

/// Adds the oldest jobs of a class. Returns how many there are.
fn find(
    tx: &Tx<'_>,
    (number, class): (usize, &Class),
    (affinity, most): (Duration, usize),
    candidates: &mut BTreeMap<i64, Candidate>,
) -> Outcome<usize> {
    let query = format!(
        "SELECT id, run, profile, session, COALESCE(reuse_key, run), attempt,
             CASE WHEN offered_to IS NULL OR offered <= ?4 OR offered > ?3 THEN NULL ELSE offered_to END,
             CASE WHEN session IS NULL OR created <= ?5 OR created > ?3 THEN NULL ELSE {HOLDER} END
         FROM jobs
         WHERE status = 'queued' AND (profile IS NULL OR profile IN ({}))
             AND (runner_group IS NULL OR CAST(?2 AS TEXT) IS NULL OR runner_group = ?2)
         ORDER BY id LIMIT ?7",
        tx.items("?1")
    );
    let row: [&dyn ToValue; 7] = [
        &List::of(&class.profiles),
        &class.group,
        &tx.now(),
        &tx.now().saturating_sub(millis(RESERVED)),
        &tx.now().saturating_sub(millis(affinity)),
        &tx.now().saturating_sub(millis(SILENT)),
        &i64::try_from(most).unwrap_or(i64::MAX),
    ];
    let found = tx.query_all(&query, &row, |row| {
        let offer = Offer {
            run_id: row.get(1)?,
            profile: row.get(2)?,
            session: row.get(3)?,
            reuse_key: Some(row.get(4)?),
        };
        let (only, other) = (row.get(6)?, row.get(7)?);
        let has_attempts = row.get::<i64>(5)? > 0;
        Ok((row.get(0)?, Candidate { offer, only, other, has_attempts, classes: HashSet::new() }))
    })?;
    let count = found.len();
    for (id, candidate) in found {
        candidates.entry(id).or_insert(candidate).classes.insert(number);
    }
    Ok(count)
}

/// Offers jobs to seats, the oldest first. Also returns when there may be more, if some must wait.
fn place(
    tx: &Tx<'_>,
    room: &Room,
    candidates: BTreeMap<i64, Candidate>,
) -> Outcome<(Offers, Option<Duration>)> {
    if candidates.is_empty() {
        return Ok((Vec::new(), None));
    }
    let mut bars = Bars { admissions: health::closed(tx)?, failures: HashSet::new() };
    if candidates.values().any(|one| one.has_attempts) {
        bars.failures = health::avoided(tx, tx.now().saturating_sub(millis(AVOIDED)))?;
    }
    let (mut offers, mut again) = (Vec::new(), None);
    let mut free: Vec<usize> = (0..room.seats.len()).collect();
    for (id, candidate) in candidates {
        if free.is_empty() {
            break;
        }
        let is_taker = |seat: &usize| takes(room, *seat, (id, &candidate), &bars);
        let Some(place) = free.iter().position(is_taker) else {
            again = again.or(Some(RESERVED));
            continue;
        };
        let seat = free.remove(place);
        let Some(runner) = room.seats.get(seat).map(|seat| seat.ask.runner) else { continue };
        if !reserve(tx, id, runner)? {
            // The seat may have the next one.
            free.insert(place, seat);
            again = Some(AFTER_RACE);
            continue;
        }
        if bars.admissions.remove(&runner).is_some() {
            health::offered(tx, runner)?;
            bars.admissions.insert(runner, Admission::Closed(None));
        }
        offers.push((seat, candidate.offer));
        // The runner may not come for it.
        again = again.or(Some(RESERVED));
    }
    Ok((offers, again))
}

/// Whether a seat may have a job now.
fn takes(room: &Room, number: usize, (job, candidate): (i64, &Candidate), bars: &Bars) -> bool {
    let (Some(seat), Some(class)) = (room.seats.get(number), room.class_of.get(number)) else {
        return false;
    };
    let is_for = |only: Option<Uuid>| only.is_none_or(|runner| runner == seat.ask.runner);
    candidate.classes.contains(class)
        && is_for(candidate.only)
        && is_for(candidate.other)
        && !seat.ask.excluded.contains(&candidate.offer.run_id)
        && !matches!(bars.admissions.get(&seat.ask.runner), Some(Admission::Closed(_)))
        && !bars.failures.contains(&(job, seat.ask.runner))
}

/// Keeps a job from other runners for [`RESERVED`]. Passes over one that is being claimed, or that another platform
/// has offered since.
fn reserve(tx: &Tx<'_>, job: i64, runner: Uuid) -> Outcome<bool> {
    let free = "SELECT id FROM jobs WHERE id = ?1 AND status = 'queued'
                AND (offered_to IS NULL OR offered_to = ?2 OR offered <= ?4 OR offered > ?3)";
    let free = tx.skipping(free);
    let set = format!("UPDATE jobs SET offered = ?3, offered_to = ?2 WHERE id = ({free})");
    let lapsed = tx.now().saturating_sub(millis(RESERVED));
    Ok(tx.execute(&set, &[&job, &runner, &tx.now(), &lapsed])? > 0)
}
