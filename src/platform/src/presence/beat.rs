//! Heartbeats that repeat the one before. They are acknowledged at once, and written down together, once a second: a
//! thousand runners cost the database one statement a second.
//!
//! INVARIANT: what is written together are only times. A row that another platform has changed since is left as it
//! is, and the runner's next heartbeat is written in full.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use base::error::chain;
use base::sync::Mutex;
use uuid::Uuid;

use super::{HeldSession, Runner};
use crate::backend::Backend;
use crate::db::List;

/// How long heartbeats wait for others.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long after its last heartbeat here a runner's rows may be taken as known.
const FRESH: Duration = Duration::from_secs(30);

/// The most runners that are remembered.
const MOST: usize = 10_000;

#[derive(Default)]
struct Memory {
    /// The heartbeats that this process wrote down last.
    written: HashMap<Uuid, Beat>,
    /// The runners whose times are to be written.
    pending: HashSet<Uuid>,
    flush: Option<Instant>,
}

struct Beat {
    runner: Runner,
    sessions: Vec<HeldSession>,
    heard: Instant,
}

/// What this process knows of heartbeats.
#[derive(Default)]
pub(super) struct Beats {
    memory: Mutex<Memory>,
}

impl Beats {
    /// Whether a heartbeat repeats what was written. If so, its time is written soon.
    pub(super) fn is_repeated(&self, runner: &Runner, sessions: &[HeldSession]) -> bool {
        let mut memory = self.memory.lock();
        let Some(beat) = memory.written.get_mut(&runner.runner_id) else { return false };
        let expected = Runner { sequence: runner.sequence, ..beat.runner.clone() };
        let is_later = runner.sequence > beat.runner.sequence;
        if !is_later
            || beat.heard.elapsed() >= FRESH
            || expected != *runner
            || beat.sessions != sessions
        {
            return false;
        }
        beat.heard = Instant::now();
        memory.pending.insert(runner.runner_id);
        memory.flush.get_or_insert_with(|| Instant::now() + INTERVAL);
        true
    }

    pub(super) fn remember(&self, runner: Runner, sessions: Vec<HeldSession>) {
        let mut memory = self.memory.lock();
        if memory.written.len() >= MOST {
            memory.written.clear();
        }
        memory.pending.remove(&runner.runner_id);
        let beat = Beat { sessions, heard: Instant::now(), runner };
        memory.written.insert(beat.runner.runner_id, beat);
    }

    pub(super) fn forget(&self, runner: Uuid) {
        self.memory.lock().written.remove(&runner);
    }

    /// Whether a heartbeat of the runner came here lately.
    pub(super) fn is_fresh(&self, runner: Uuid) -> bool {
        let memory = self.memory.lock();
        memory.written.get(&runner).is_some_and(|beat| beat.heard.elapsed() < FRESH)
    }

    /// The runners whose times are due, with the keys of the rows that they repeat; or when they are.
    fn take(&self, now: Instant) -> Result<Vec<(Uuid, String)>, Option<Instant>> {
        let mut memory = self.memory.lock();
        match memory.flush {
            Some(at) if at <= now => memory.flush = None,
            later => return Err(later),
        }
        let pending = std::mem::take(&mut memory.pending);
        let key = |id| {
            let Runner { generation, sequence, .. } = memory.written.get(&id)?.runner;
            Some((id, format!("{id} {generation} {sequence}")))
        };
        Ok(pending.into_iter().filter_map(key).collect())
    }
}

impl Backend {
    /// Writes down the times of repeated heartbeats if they are due; returns when they are next.
    pub(crate) fn flush_heartbeats(&self, now: Instant) -> Option<Instant> {
        let beats = &self.presence.beats;
        let due = match beats.take(now) {
            Ok(due) => due,
            Err(later) => return later,
        };
        let ids = List::of(&due.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let keys = List::of(&due.iter().map(|(_, key)| key).collect::<Vec<_>>());
        let known = self.db.write_relaxed("record heartbeats", move |tx| {
            let set = format!(
                "UPDATE runners SET seen = ?3, present = ?3 WHERE id IN ({})
                     AND id || ' ' || generation || ' ' || sequence IN ({}) RETURNING id",
                tx.items("?1"),
                tx.items("?2")
            );
            tx.query_all(&set, &[&ids, &keys, &tx.now()], |row| row.get(0))
        });
        let known: HashSet<Uuid> =
            known.map(Vec::into_iter).map(Iterator::collect).unwrap_or_else(|error| {
                log::warn!("cannot record heartbeats; error={}", chain(&error));
                HashSet::new()
            });
        due.iter().filter(|(id, _)| !known.contains(id)).for_each(|(id, _)| beats.forget(*id));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn runner(number: u128, sequence: i64) -> Runner {
        let (runner_id, mode) = (Uuid::from_u128(number), "running".to_owned());
        Runner { runner_id, mode, generation: 1, sequence, ..Runner::default() }
    }

    fn backend(dir: &std::path::Path) -> Backend {
        Backend::open(Config::new(dir)).unwrap()
    }

    fn beat(backend: &Backend, number: u128, sequence: i64) {
        backend.record_heartbeat(runner(number, sequence), Vec::new()).unwrap();
    }

    fn pass(backend: &Backend) {
        let set = "UPDATE runners SET seen = seen - 60001, present = present - 60001";
        backend.db.write("let time pass", move |tx| tx.execute(set, &[])).unwrap();
    }

    fn lost(backend: &Backend) -> Vec<bool> {
        backend.runners().unwrap().iter().map(|one| one.lost).collect()
    }

    fn later() -> Instant {
        Instant::now() + 2 * INTERVAL
    }

    #[test]
    fn repeated_heartbeats_are_written_together_when_they_are_due() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        (1..=2).for_each(|number| beat(&backend, number, 1));
        pass(&backend);
        (1..=2).for_each(|number| beat(&backend, number, 2));

        let due = backend.flush_heartbeats(Instant::now());
        let before = lost(&backend);
        let next = backend.flush_heartbeats(later());

        assert!(due.is_some());
        assert_eq!((before, next), (vec![true, true], None));
        assert_eq!(lost(&backend), [false, false]);
        assert_eq!(backend.flush_heartbeats(later()), None);
    }

    #[test]
    fn a_changed_heartbeat_is_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        beat(&backend, 1, 1);
        let drains = Runner { mode: "draining".into(), ..runner(1, 2) };

        backend.record_heartbeat(drains, Vec::new()).unwrap();

        assert_eq!(backend.runners().unwrap()[0].mode, "draining");
        assert_eq!(backend.flush_heartbeats(later()), None);
    }

    #[test]
    fn a_row_that_another_platform_changed_is_left_and_the_next_heartbeat_is_written_in_full() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        beat(&backend, 1, 1);
        let set =
            "UPDATE runners SET sequence = 2, body = replace(body, '\"running\"', '\"draining\"')";
        backend.db.write("be the other", move |tx| tx.execute(set, &[])).unwrap();
        pass(&backend);

        beat(&backend, 1, 3);
        backend.flush_heartbeats(later());
        let after_the_first = backend.runners().unwrap().remove(0);
        beat(&backend, 1, 4);
        let after_the_second = backend.runners().unwrap().remove(0);

        assert_eq!((after_the_first.mode.as_str(), after_the_first.lost), ("draining", true));
        assert_eq!((after_the_second.mode.as_str(), after_the_second.lost), ("running", false));
    }
}
