//! Wake-ups across the platforms of one database: the thread that forwards notifications.
//!
//! A notification of another platform is a hint. The truth is a query, once a second while something
//! waits: it compares a summary of the queue, and of each job that is followed, with the one before,
//! so its cost does not grow with the number of runners that wait.
//!
//! | payload | topic |
//! |---|---|
//! | `work` | [`Topic::Work`] |
//! | `<run>` | [`Topic::Job`] |
//!
//! A message has several of them, separated by commas. Deadlines are not forwarded: each platform
//! looks at all attempts every few seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::backoff::Backoff;
use base::error::chain;

use crate::backend::Backend;
use crate::db::{List, Listener, Outcome, Tx};
use crate::notifier::{Outbound, Topic};
use crate::{Result, RunId};

/// How often the database is asked while something waits.
const POLL: Duration = Duration::from_secs(1);

/// The delays between attempts to connect.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The most bytes of a payload: PostgreSQL has room for 7999.
const LONGEST: usize = 7900;

/// The most queued jobs that a summary counts.
const MOST_COUNTED: u32 = 1000;

/// What the last summaries were.
#[derive(Default)]
struct Seen {
    work: Option<String>,
    jobs: HashMap<RunId, String>,
}

/// Forwards notifications until the platform stops.
pub(crate) fn run(backend: &Arc<Backend>, outbound: &Outbound) {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut listener = None;
    let mut connect = Instant::now();
    let mut ask = Instant::now();
    let mut seen = Seen::default();
    while !backend.notifier.is_stopped() {
        if listener.is_none() && connect <= Instant::now() {
            listener = listen(backend);
            connect = Instant::now() + backoff.delay();
        }
        if let Some(connected) = &mut listener {
            match exchange(backend, connected, outbound, ask) {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    log::warn!("lost the database's notifications; error={}", chain(&error));
                    listener = None;
                }
            }
        } else {
            outbound.wait(connect.min(ask));
        }
        if ask <= Instant::now() {
            ask = Instant::now() + POLL;
            if let Err(error) = compare(backend, &mut seen) {
                log::debug!("cannot look for changes; error={}", chain(&error));
            }
        }
    }
}

fn listen(backend: &Backend) -> Option<Listener> {
    let connected = backend.db.listen();
    if let Err(error) = &connected {
        log::debug!("cannot listen to the database; error={}", chain(error));
    }
    let connected = connected.ok()?;
    // Notifications since the last connection are lost.
    backend.notifier.wake_all();
    Some(connected)
}

/// Sends what is to be sent, and waits for what others send.
fn exchange(
    backend: &Backend,
    listener: &mut Listener,
    outbound: &Outbound,
    until: Instant,
) -> Result<()> {
    for payload in payloads(outbound.take()) {
        backend.db.send(listener, &payload)?;
    }
    for payload in backend.db.hear(listener, outbound.event(), until)? {
        for word in payload.split(',') {
            match (word, word.parse()) {
                ("work", _) => backend.notifier.wake(Topic::Work),
                (_, Ok(run)) => backend.notifier.wake(Topic::Job(run)),
                // Another version of this program may send more.
                _ => log::debug!("unknown notification; text={word:?}"),
            }
        }
    }
    Ok(())
}

fn payloads(topics: Vec<Topic>) -> Vec<String> {
    let mut payloads = vec![String::new()];
    for topic in topics {
        let word = match topic {
            Topic::Work => "work".to_owned(),
            Topic::Job(run) => run.to_string(),
            Topic::Deadline => continue,
        };
        if payloads.last().is_some_and(|last| last.len() + word.len() > LONGEST) {
            payloads.push(String::new());
        }
        if let Some(last) = payloads.last_mut() {
            last.push_str(if last.is_empty() { "" } else { "," });
            last.push_str(&word);
        }
    }
    payloads.retain(|payload| !payload.is_empty());
    payloads
}

/// Wakes those whose topic has another summary than before.
fn compare(backend: &Backend, seen: &mut Seen) -> Result<()> {
    let (is_work, followed) = backend.notifier.waits();
    let is_work = is_work || backend.placement.is_active();
    if !is_work && followed.is_empty() {
        return Ok(());
    }
    let list = List::of(&followed);
    let (work, jobs) = backend.db.read("look for changes", move |tx| {
        let work = is_work.then(|| summary_of_work(tx)).transpose()?;
        Ok((work, summaries(tx, &list)?))
    })?;
    if work.is_some() && seen.work != work {
        seen.work = work;
        backend.notifier.wake(Topic::Work);
    }
    // A job that was not followed a second ago counts as changed, as it may have been since.
    for (run, summary) in &jobs {
        if seen.jobs.get(run) != Some(summary) {
            backend.notifier.wake(Topic::Job(*run));
        }
    }
    seen.jobs = jobs.into_iter().collect();
    Ok(())
}

/// It changes with each submission, cancellation, and attempt that was lost.
fn summary_of_work(tx: &Tx<'_>) -> Outcome<String> {
    let query = "SELECT
        (SELECT coalesce(max(id), 0) FROM jobs),
        (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE status = 'queued' LIMIT ?1) AS queued),
        (SELECT coalesce(max(cancelled), 0) FROM jobs WHERE status = 'running'),
        (SELECT count(cancelled) FROM jobs WHERE status = 'running'),
        (SELECT coalesce(max(ended), 0) FROM attempts WHERE state = 'lost')";
    tx.query_one(query, &[&MOST_COUNTED], |row| {
        let mut summary = String::new();
        for column in 0..5 {
            summary.push_str(&format!("{} ", row.get::<i64>(column)?));
        }
        Ok(summary)
    })
}

/// For each job what changes with its state, its events and its telemetry.
fn summaries(tx: &Tx<'_>, runs: &List) -> Outcome<Vec<(RunId, String)>> {
    let query = format!(
        "SELECT run, status, jobs.attempt, coalesce(stored_bytes, 0)
         FROM jobs LEFT JOIN attempts
             ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
         WHERE run IN ({})",
        tx.items("?1")
    );
    tx.query_all(&query, &[runs], |row| {
        let (status, attempt): (String, i64) = (row.get(1)?, row.get(2)?);
        Ok((row.get(0)?, format!("{status} {attempt} {}", row.get::<i64>(3)?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_topics_are_several_payloads_within_the_limit() {
        let runs: Vec<_> = (0..500).map(|_| RunId::random()).collect();
        let topics = runs.iter().map(|run| Topic::Job(*run)).chain([Topic::Work, Topic::Deadline]);

        let payloads = payloads(topics.collect());

        assert!(payloads.iter().all(|payload| payload.len() <= LONGEST));
        let words: Vec<_> = payloads.iter().flat_map(|payload| payload.split(',')).collect();
        assert_eq!(words.len(), 501);
        assert_eq!(words.last(), Some(&"work"));
    }

    #[test]
    fn nothing_to_send_is_no_payload() {
        assert_eq!(payloads(Vec::new()), [""; 0]);
    }
}
