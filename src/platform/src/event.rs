//! Events of jobs: received from guests, delivered to followers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::attempt::Caller;
use crate::backend::Backend;
use crate::bounded::list;
use crate::db::{Outcome, ToValue, Tx};
use crate::job::{Status, find};
use crate::key::Tag;
use crate::mask::Mask;
use crate::notifier::Topic;
use crate::{Refusal, Result, RunId};

/// The most events of one batch.
const MOST: usize = 1000;

/// The size of a page in bytes, plus at most one event.
const PAGE: u64 = 4 << 20;

/// The most items of a page.
const PAGE_ITEMS: usize = 10_000;

/// A batch of a guest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Batch {
    pub(crate) run_id: RunId,
    #[serde(deserialize_with = "list::<_, _, MOST>")]
    events: Vec<Box<RawValue>>,
}

/// The reply to a batch.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Received {
    received: usize,
    first_sequence: i64,
    last_sequence: i64,
}

/// An event of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The position among all events of the job, for `after`.
    pub position: i64,
    /// The attempt. Each attempt counts its sequence from 0.
    pub attempt: u32,
    /// The sequence number. A missing one may arrive later.
    pub sequence: i64,
    /// The time of arrival, in milliseconds since 1970.
    pub received_ms: i64,
    /// The agent's event, unchanged.
    pub event: Box<RawValue>,
}

/// A page of a job's events or telemetry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// In the order of arrival.
    pub items: Vec<T>,
    /// The position after which the next page begins.
    pub next: i64,
    /// Whether the job has ended and this is its last page.
    pub is_last: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbered {
    sequence_number: u32,
}

/// An event that is ready to be stored.
struct Incoming {
    sequence: i64,
    body: String,
}

impl Backend {
    /// Stores those events of a batch that are not stored yet.
    pub(crate) fn take_events(&self, token: &Tag, batch: Batch) -> Result<Received> {
        let (token, run) = (*token, batch.run_id);
        if batch.events.is_empty() {
            return Err(Refusal::bad("the batch has no events").into());
        }
        if batch.events.len() > MOST {
            return Err(Refusal::TooLarge { limit: MOST as u64, unit: "events" }.into());
        }
        let mask = self.secrets.mask(&run)?;
        let events = batch.events.iter().map(|event| incoming(event, mask.as_deref()));
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let sequences = events.iter().map(|event| event.sequence);
        let received = Received {
            received: events.len(),
            first_sequence: sequences.clone().min().unwrap_or_default(),
            last_sequence: sequences.max().unwrap_or_default(),
        };
        let is_masked = mask.is_some();
        let most = self.config.largest_record;
        self.db.write("store events", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            caller.check_masked(is_masked)?;
            caller.begin(tx)?;
            store(tx, &run, caller, &events)?;
            charge(tx, caller, events.iter().map(|event| event.body.len()).sum(), most)
        })?;
        self.notifier.notify(Topic::Job(run));
        Ok(received)
    }

    /// The events after a position. Waits up to `hold` if there are none.
    pub(crate) fn events(&self, run: RunId, after: i64, hold: Duration) -> Result<Page<Event>> {
        self.page("events", run, (after, hold), move |tx, job, last| {
            let query = "SELECT position, attempt, sequence, received, body FROM events
                         WHERE job = ?1 AND position > ?2 AND position <= ?3 ORDER BY position";
            tx.query_all(query, &[&job, &after, &last], |row| {
                Ok(Event {
                    position: row.get(0)?,
                    attempt: row.get(1)?,
                    sequence: row.get(2)?,
                    received_ms: row.get(3)?,
                    event: RawValue::from_string(row.get(4)?)?,
                })
            })
        })
    }

    /// The page of a table after a position; `items` gets the job and the page's last position. Waits
    /// for an item or the end.
    pub(crate) fn page<T: Send + 'static>(
        &self,
        table: &'static str,
        run: RunId,
        (after, hold): (i64, Duration),
        items: impl Fn(&Tx<'_>, i64, i64) -> Outcome<Vec<T>> + Send + Clone + 'static,
    ) -> Result<Page<T>> {
        let read = || {
            let items = items.clone();
            self.db.read("read a job's record", move |tx| {
                let (job, status) = find(tx, &run)?;
                let (next, is_all) = extent(tx, table, job, after)?;
                let is_last = is_all && Status::is_final(status);
                Ok(Page { items: items(tx, job, next)?, next, is_last })
            })
        };
        let found = self.held(Topic::Job(run), hold, || {
            Ok(Some(read()?).filter(|page| page.is_last || !page.items.is_empty()).into())
        })?;
        found.map_or_else(read, Ok)
    }
}

/// The last position of the page after a position, and whether there is nothing after it. Only the
/// sizes are read, so a page's memory is bounded whatever the table has.
fn extent(tx: &Tx<'_>, table: &'static str, job: i64, after: i64) -> Outcome<(i64, bool)> {
    let query = format!(
        "SELECT position, octet_length(body) FROM {table}
         WHERE job = ?1 AND position > ?2 ORDER BY position LIMIT ?3"
    );
    let sizes: Vec<(i64, u64)> =
        tx.query_all(&query, &[&job, &after, &PAGE_ITEMS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (mut last, mut total) = (after, 0);
    for (position, size) in &sizes {
        if total >= PAGE {
            return Ok((last, false));
        }
        total += size;
        last = *position;
    }
    Ok((last, sizes.len() < PAGE_ITEMS && total < PAGE))
}

fn incoming(event: &RawValue, mask: Option<&Mask>) -> Result<Incoming, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::bad(format!("malformed event: {error}"));
    let numbered: Numbered = serde_json::from_str(event.get()).map_err(malformed)?;
    let body = match mask {
        None => event.get().to_owned(),
        Some(mask) => mask.json(event.get())?,
    };
    Ok(Incoming { sequence: numbered.sequence_number.into(), body })
}

fn store(tx: &Tx<'_>, run: &RunId, caller: Caller, events: &[Incoming]) -> Outcome<()> {
    let query = "SELECT last_event FROM attempts WHERE job = ?1 AND attempt = ?2";
    let Caller { job, attempt, .. } = caller;
    let mut last: i64 = tx.query_one(query, &[&job, &attempt], |row| row.get(0))?;
    let mut position = next_position(tx, "events", job)?;
    let mut stored = 0_i64;
    let now = tx.now();
    let add = "INSERT INTO events (job, position, attempt, sequence, received, body)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (job, attempt, sequence) DO NOTHING";
    for event in events {
        let row: [&dyn ToValue; 6] =
            [&job, &position, &attempt, &event.sequence, &now, &event.body];
        if tx.execute(add, &row)? == 0 {
            continue;
        }
        position += 1;
        stored += 1;
        if event.sequence > last + 1 {
            log::warn!("events are missing; run={run} from={} to={}", last + 1, event.sequence - 1);
        }
        last = last.max(event.sequence);
    }
    let set = "UPDATE attempts SET events = events + ?3, last_event = ?4
               WHERE job = ?1 AND attempt = ?2";
    tx.execute(set, &[&job, &attempt, &stored, &last]).map(drop)
}

/// The next position of a job in a table.
pub(crate) fn next_position(tx: &Tx<'_>, table: &'static str, job: i64) -> Outcome<i64> {
    let query = format!("SELECT coalesce(max(position), 0) + 1 FROM {table} WHERE job = ?1");
    tx.query_one(&query, &[&job], |row| row.get(0))
}

/// Counts the bytes that an attempt stores, and rejects those above the limit. It is a sign of life.
pub(crate) fn charge(tx: &Tx<'_>, caller: Caller, size: usize, limit: u64) -> Outcome<()> {
    let set = "UPDATE attempts SET stored_bytes = stored_bytes + ?3, seen = ?4
               WHERE job = ?1 AND attempt = ?2 RETURNING stored_bytes";
    let row: [&dyn ToValue; 4] = [&caller.job, &caller.attempt, &size, &tx.now()];
    let stored: u64 = tx.query_one(set, &row, |row| row.get(0))?;
    if stored > limit {
        return Err(Refusal::TooLarge { limit, unit: "bytes for a run" }.into());
    }
    Ok(())
}
