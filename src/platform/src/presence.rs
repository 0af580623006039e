//! Which runners are present, in the database: every platform that shares it has the same answer.
//!
//! What a process knows alone is in [`Presence`]: the runners within it, which are alive as long as
//! it is, and what it wrote about polls lately.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use base::sync::{Mutex, MutexGuard};
use serde::Serialize;
use uuid::Uuid;

use crate::Result;
use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{List, Outcome, Tx};

/// For how long a runner counts as present after its last request. Polls are held for half of it.
const RUNNER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a runner's polls are written down while they name the same profiles.
const POLL_INTERVAL: Duration = Duration::from_secs(20);

/// For how long a runner is listed after its last heartbeat.
const LISTED: Duration = Duration::from_secs(60 * 60);

/// The most runners whose polls are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// One process of a runner. Its heartbeats keep the attempts alive that it claimed. The generation is
/// 0 until a heartbeat has named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation {
    pub(crate) runner: Uuid,
    pub(crate) generation: i64,
}

/// A runner according to its last heartbeat.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the contract's heartbeat has them")]
pub struct Runner {
    pub runner_id: Uuid,
    pub runner_name: String,
    pub group: String,
    pub mode: String,
    pub generation: i64,
    pub sequence: i64,
    pub total_vcpu: f64,
    pub total_memory_mb: f64,
    pub max_concurrent: u64,
    pub running_count: u64,
    pub admittable_profiles: Vec<String>,
    /// Milliseconds since the heartbeat.
    pub age_ms: u64,
}

/// Which profiles the present runners take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    NoRunner,
    /// A runner is present that has not named its profiles.
    Unknown,
    /// The profiles that the runners have had room for.
    Profiles(BTreeSet<String>),
}

#[derive(Default)]
struct Memory {
    local: HashSet<Incarnation>,
    polls: HashMap<Uuid, (BTreeSet<String>, Instant)>,
}

/// What this process knows of runners.
#[derive(Default)]
pub(crate) struct Presence {
    memory: Mutex<Memory>,
}

impl Presence {
    /// Counts a runner in this process as alive until [`Presence::leave`].
    pub(crate) fn join(&self, here: Incarnation) {
        self.lock().local.insert(here);
    }

    pub(crate) fn leave(&self, here: Incarnation) {
        self.lock().local.remove(&here);
    }

    /// Whether it is a live runner in this process.
    pub(crate) fn is_local(&self, one: Incarnation) -> bool {
        self.lock().local.contains(&one)
    }

    /// The live runners in this process.
    pub(crate) fn local(&self) -> Vec<Incarnation> {
        self.lock().local.iter().copied().collect()
    }

    /// Whether this process wrote down a poll like this lately. If not, it does now.
    fn is_recorded(&self, runner: Uuid, profiles: &[String]) -> bool {
        let mut memory = self.lock();
        if let Some((known, at)) = memory.polls.get(&runner)
            && at.elapsed() < POLL_INTERVAL
            && profiles.iter().all(|profile| known.contains(profile))
        {
            return true;
        }
        if memory.polls.len() >= MOST_REMEMBERED {
            memory.polls.clear();
        }
        let profiles = profiles.iter().cloned().collect();
        memory.polls.insert(runner, (profiles, Instant::now()));
        false
    }

    fn forget(&self, runner: Uuid) {
        self.lock().polls.remove(&runner);
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }
}

/// A runner's row.
#[derive(Default)]
struct Known {
    generation: i64,
    sequence: i64,
    profiles: BTreeSet<String>,
}

impl Known {
    fn find(tx: &Tx<'_>, runner: Uuid) -> Outcome<Self> {
        let query = tx.locking("SELECT generation, sequence, profiles FROM runners WHERE id = ?1");
        let found = tx.query_opt(&query, &[&runner], |row| {
            let profiles = serde_json::from_str(&row.get::<String>(2)?)?;
            Ok(Self { generation: row.get(0)?, sequence: row.get(1)?, profiles })
        })?;
        Ok(found.unwrap_or_default())
    }
}

impl Backend {
    /// Records a heartbeat, unless a later one arrived first. Attempts that the runner claimed before its
    /// generation was known now belong to this generation: a runner may claim before its first
    /// heartbeat. Returns the latest known process of the runner.
    pub(crate) fn record_heartbeat(&self, runner: Runner) -> Result<Incarnation> {
        let id = runner.runner_id;
        let generation = self.db.write_relaxed("record a heartbeat", move |tx| {
            let mut known = Known::find(tx, id)?;
            if (known.generation, known.sequence) > (runner.generation, runner.sequence) {
                return Ok(known.generation);
            }
            if known.generation != 0 && known.generation != runner.generation {
                // Its configuration may have changed.
                known.profiles.clear();
            }
            known.profiles.extend(runner.admittable_profiles.iter().cloned());
            let set =
                "INSERT INTO runners (id, generation, sequence, body, profiles, seen, present)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
                       ON CONFLICT (id) DO UPDATE SET generation = ?2, sequence = ?3, body = ?4,
                           profiles = ?5, seen = ?6, present = ?6";
            let (body, profiles) =
                (serde_json::to_string(&runner)?, serde_json::to_string(&known.profiles)?);
            let (generation, sequence) = (runner.generation, runner.sequence);
            tx.execute(set, &[&id, &generation, &sequence, &body, &profiles, &tx.now()])?;
            let bind = "UPDATE attempts SET generation = ?2
                        WHERE runner = ?1 AND generation = 0 AND state = 'live'
                            AND (job, attempt) IN (
                                SELECT id, attempt FROM jobs WHERE status = 'running')";
            tx.execute(bind, &[&id, &generation])?;
            Ok(generation)
        })?;
        self.presence.forget(id);
        Ok(Incarnation { runner: id, generation })
    }

    /// Records that a runner polls for jobs of these profiles.
    pub(crate) fn record_poll(&self, runner: Uuid, profiles: &[String]) -> Result<()> {
        if self.presence.is_recorded(runner, profiles) {
            return Ok(());
        }
        let named: BTreeSet<_> = profiles.iter().cloned().collect();
        self.db.write_relaxed("record a poll", move |tx| {
            let mut known = Known::find(tx, runner)?;
            known.profiles.extend(named.iter().cloned());
            let set = "INSERT INTO runners (id, generation, sequence, profiles, seen, present)
                       VALUES (?1, 0, 0, ?2, 0, ?3)
                       ON CONFLICT (id) DO UPDATE SET profiles = ?2, present = ?3";
            let profiles = serde_json::to_string(&known.profiles)?;
            tx.execute(set, &[&runner, &profiles, &tx.now()]).map(drop)
        })
    }

    /// Which profiles the present runners take.
    pub(crate) fn availability(&self) -> Result<Availability> {
        let local = self.presence.local();
        let has_local = !local.is_empty();
        let local = List::of(&local.iter().map(|one| one.runner).collect::<Vec<_>>());
        let there: Vec<String> = self.db.read("look for runners", move |tx| {
            let query = format!(
                "SELECT profiles FROM runners WHERE present > ?1 OR id IN ({})",
                tx.items("?2")
            );
            let since = tx.now().saturating_sub(millis(RUNNER_TIMEOUT));
            tx.query_all(&query, &[&since, &local], |row| row.get(0))
        })?;
        let mut all = BTreeSet::new();
        let mut is_unknown = there.is_empty();
        for profiles in &there {
            let profiles: BTreeSet<String> =
                serde_json::from_str(profiles).map_err(|source| crate::Error::BadRow { source })?;
            is_unknown |= profiles.is_empty();
            all.extend(profiles);
        }
        Ok(match is_unknown {
            true if there.is_empty() && !has_local => Availability::NoRunner,
            true => Availability::Unknown,
            false => Availability::Profiles(all),
        })
    }

    /// The latest known process of a runner.
    pub(crate) fn latest(&self, runner: Uuid) -> Result<Incarnation> {
        let known = self.db.read("look for a runner", move |tx| Known::find(tx, runner))?;
        Ok(Incarnation { runner, generation: known.generation })
    }

    /// The runners that sent a heartbeat lately.
    pub(crate) fn runners(&self) -> Result<Vec<Runner>> {
        self.db.read("list runners", |tx| {
            let query = "SELECT body, seen FROM runners
                         WHERE body IS NOT NULL AND seen > ?1 ORDER BY id";
            let since = tx.now().saturating_sub(millis(LISTED));
            tx.query_all(query, &[&since], |row| {
                let runner: Runner = serde_json::from_str(&row.get::<String>(0)?)?;
                let age = tx.now().saturating_sub(row.get(1)?);
                Ok(Runner { age_ms: u64::try_from(age).unwrap_or(0), ..runner })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn backend(dir: &std::path::Path) -> Backend {
        Backend::open(Config::new(dir)).unwrap()
    }

    fn runner(generation: i64, sequence: i64, profiles: &[&str]) -> Runner {
        Runner {
            runner_id: Uuid::nil(),
            runner_name: "one".into(),
            group: "a/b".into(),
            mode: "running".into(),
            generation,
            sequence,
            total_vcpu: 1.0,
            total_memory_mb: 1.0,
            max_concurrent: 1,
            running_count: 0,
            admittable_profiles: profiles.iter().map(|name| (*name).to_owned()).collect(),
            age_ms: 0,
        }
    }

    #[test]
    fn profiles_of_a_runner_accumulate_until_it_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        let there = |profiles: &[&str]| {
            Availability::Profiles(profiles.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(backend.availability().unwrap(), Availability::NoRunner);
        backend.record_heartbeat(runner(1, 1, &[])).unwrap();
        assert_eq!(backend.availability().unwrap(), Availability::Unknown);
        backend.record_heartbeat(runner(1, 2, &["big", "small"])).unwrap();
        backend.record_heartbeat(runner(1, 3, &[])).unwrap();
        backend.record_poll(Uuid::nil(), &["small".to_owned()]).unwrap();
        assert_eq!(backend.availability().unwrap(), there(&["big", "small"]));
        backend.record_heartbeat(runner(2, 1, &["small"])).unwrap();
        assert_eq!(backend.availability().unwrap(), there(&["small"]));
    }

    #[test]
    fn an_overtaken_heartbeat_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        backend.record_heartbeat(runner(2, 5, &[])).unwrap();
        backend.record_heartbeat(runner(2, 4, &[])).unwrap();

        let latest = backend.record_heartbeat(runner(1, 9, &[])).unwrap();

        assert_eq!(latest.generation, 2);
        assert_eq!(backend.runners().unwrap()[0].sequence, 5);
    }

    #[test]
    fn a_runner_that_is_silent_for_a_minute_is_not_present() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        backend.record_heartbeat(runner(1, 1, &["small"])).unwrap();
        let set = "UPDATE runners SET present = present - 60000, seen = seen - 60000";
        backend.db.write("let time pass", move |tx| tx.execute(set, &[])).unwrap();

        assert_eq!(backend.availability().unwrap(), Availability::NoRunner);
        assert!(backend.runners().unwrap()[0].age_ms >= 60_000);
    }
}
