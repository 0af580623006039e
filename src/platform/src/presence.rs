//! Which runners are present, in the database: every platform that shares it has the same answer.
//!
//! What a process knows alone is in [`Presence`]: the runners within it, which are alive as long as
//! it is, and what it wrote about polls lately.

mod beat;
mod session;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use base::sync::{Mutex, MutexGuard};
use serde::Serialize;
use uuid::Uuid;

use self::beat::Beats;
pub(crate) use self::session::HeldSession;

use crate::Result;
use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{List, Outcome, ToValue, Tx};
use crate::notifier::Topic;

/// For how long a runner counts as present after its last request. Polls are held for half of it.
pub(crate) const RUNNER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a runner's polls are written down while they name the same profiles.
const POLL_INTERVAL: Duration = Duration::from_secs(20);

/// For how long a runner is listed after its last heartbeat.
pub(crate) const LISTED: Duration = Duration::from_secs(60 * 60);

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
#[derive(Debug, Clone, Default, PartialEq, Serialize, serde::Deserialize)]
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
    #[serde(default)]
    pub allocated_vcpu: f64,
    #[serde(default)]
    pub allocated_memory_mb: f64,
    /// The number of its sessions with a parked VM.
    #[serde(default)]
    pub parked: u64,
    #[serde(default)]
    pub version: Option<String>,
    /// Milliseconds since the heartbeat.
    pub age_ms: u64,
    /// Whether it has been silent for longer than a minute.
    #[serde(default)]
    pub lost: bool,
    /// Whether the operator has it drained.
    #[serde(default)]
    pub drained: bool,
    /// Why it gets no jobs, if too many did not start.
    #[serde(default)]
    pub unhealthy: Option<Unhealthy>,
}

/// A runner at which too many jobs in a row did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unhealthy {
    /// What happened, without secrets.
    pub reason: String,
    /// Milliseconds until it may try a job.
    pub trial_in_ms: u64,
}

impl Runner {
    /// Whether it takes jobs, by its own word.
    fn takes_jobs(&self) -> bool {
        self.mode == "running"
    }

    /// Whether it has room for the next job of a session that it holds.
    fn would_resume(&self, session: &HeldSession) -> bool {
        self.takes_jobs() && self.admittable_profiles.contains(&session.profile)
    }
}

/// A runner that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    /// A runner in this process may have none: it takes jobs of all groups.
    pub(crate) group: Option<String>,
    /// The profiles that it has had room for; none until it has named some.
    pub(crate) profiles: BTreeSet<String>,
    /// Whether it is drained or unhealthy.
    pub(crate) is_closed: bool,
}

impl Present {
    /// Whether it takes jobs of a group.
    pub(crate) fn is_of(&self, group: Option<&str>) -> bool {
        group.is_none() || self.group.is_none() || self.group.as_deref() == group
    }
}

#[derive(Default)]
struct Memory {
    local: HashSet<Incarnation>,
    polls: HashMap<Uuid, Poll>,
}

/// A runner's last poll that was written down.
struct Poll {
    group: Option<String>,
    profiles: BTreeSet<String>,
    at: Instant,
}

/// What this process knows of runners.
#[derive(Default)]
pub(crate) struct Presence {
    memory: Mutex<Memory>,
    beats: Beats,
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
    fn is_recorded(&self, runner: Uuid, group: Option<&str>, profiles: &[String]) -> bool {
        // The heartbeats of a runner say that it is there.
        let is_fresh = self.beats.is_fresh(runner);
        let mut memory = self.lock();
        if let Some(known) = memory.polls.get(&runner)
            && (is_fresh || known.at.elapsed() < POLL_INTERVAL)
            && known.group.as_deref() == group
            && profiles.iter().all(|profile| known.profiles.contains(profile))
        {
            return true;
        }
        if memory.polls.len() >= MOST_REMEMBERED {
            memory.polls.clear();
        }
        let (group, profiles) = (group.map(str::to_owned), profiles.iter().cloned().collect());
        memory.polls.insert(runner, Poll { group, profiles, at: Instant::now() });
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

/// Writes a heartbeat down, unless a later one was. Returns the runner's latest known process, and if it was written,
/// whether the runner no longer holds a session.
fn write(tx: &Tx<'_>, runner: &Runner, sessions: &[HeldSession]) -> Outcome<(i64, Option<bool>)> {
    let id = runner.runner_id;
    let mut known = Known::find(tx, id)?;
    if (known.generation, known.sequence) > (runner.generation, runner.sequence) {
        return Ok((known.generation, None));
    }
    if known.generation != 0 && known.generation != runner.generation {
        // Its configuration may have changed.
        known.profiles.clear();
    }
    known.profiles.extend(runner.admittable_profiles.iter().cloned());
    let set = "INSERT INTO runners
                   (id, generation, sequence, body, profiles, seen, present, runner_group, is_open)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8)
               ON CONFLICT (id) DO UPDATE SET generation = ?2, sequence = ?3, body = ?4,
                   profiles = ?5, seen = ?6, present = ?6, runner_group = ?7, is_open = ?8";
    let (body, profiles) =
        (serde_json::to_string(&runner)?, serde_json::to_string(&known.profiles)?);
    let (generation, group) = (runner.generation, &runner.group);
    let row: [&dyn ToValue; 8] = [
        &id,
        &generation,
        &runner.sequence,
        &body,
        &profiles,
        &tx.now(),
        group,
        &runner.takes_jobs(),
    ];
    tx.execute(set, &row)?;
    let bind = "UPDATE attempts SET generation = ?2
                WHERE runner = ?1 AND generation = 0 AND state = 'live'
                    AND (job, attempt) IN (
                        SELECT id, attempt FROM jobs WHERE status = 'running')";
    tx.execute(bind, &[&id, &generation])?;
    let is_usable = |session: &&HeldSession| runner.would_resume(session);
    let usable: Vec<_> = sessions.iter().filter(is_usable).collect();
    Ok((generation, Some(session::replace(tx, id, &usable)?)))
}

impl Backend {
    /// Records a heartbeat, unless a later one arrived first. Attempts that the runner claimed before its
    /// generation was known now belong to this generation: a runner may claim before its first
    /// heartbeat. Returns the latest known process of the runner.
    pub(crate) fn record_heartbeat(
        &self,
        runner: Runner,
        sessions: Vec<HeldSession>,
    ) -> Result<Incarnation> {
        let id = runner.runner_id;
        self.placement.hear();
        if self.presence.beats.is_repeated(&runner, &sessions) {
            self.placement.wake();
            return Ok(Incarnation { runner: id, generation: runner.generation });
        }
        let (beat, held) = (runner.clone(), sessions.clone());
        let (generation, is_released) =
            self.db.write_relaxed("record a heartbeat", move |tx| write(tx, &runner, &sessions))?;
        self.presence.forget(id);
        match is_released {
            Some(_) => self.presence.beats.remember(beat, held),
            // A later one was written elsewhere.
            None => self.presence.beats.forget(id),
        }
        if is_released == Some(true) {
            // Another runner may have its jobs at once.
            self.notifier.notify(Topic::Work);
        }
        Ok(Incarnation { runner: id, generation })
    }

    /// Records that a runner polls for jobs of this group and these profiles.
    pub(crate) fn record_poll(
        &self,
        runner: Uuid,
        group: Option<&str>,
        profiles: &[String],
    ) -> Result<()> {
        if self.presence.is_recorded(runner, group, profiles) {
            return Ok(());
        }
        let named: BTreeSet<_> = profiles.iter().cloned().collect();
        let group = group.map(str::to_owned);
        self.db.write_relaxed("record a poll", move |tx| {
            let mut known = Known::find(tx, runner)?;
            known.profiles.extend(named.iter().cloned());
            let set = "INSERT INTO runners
                           (id, generation, sequence, profiles, seen, present, runner_group)
                       VALUES (?1, 0, 0, ?2, 0, ?3, ?4)
                       ON CONFLICT (id) DO UPDATE SET profiles = ?2, present = ?3, runner_group = ?4";
            let profiles = serde_json::to_string(&known.profiles)?;
            tx.execute(set, &[&runner, &profiles, &tx.now(), &group]).map(drop)
        })
    }

    /// The runners that are present.
    pub(crate) fn present(&self) -> Result<Vec<Present>> {
        let local = self.presence.local();
        let ids = List::of(&local.iter().map(|one| one.runner).collect::<Vec<_>>());
        let mut present = self.db.read("look for runners", move |tx| {
            let query = format!(
                "SELECT runner_group, profiles, drained = 1 OR strikes > 0 FROM runners WHERE present > ?1 OR id IN ({})",
                tx.items("?2")
            );
            let since = tx.now().saturating_sub(millis(RUNNER_TIMEOUT));
            tx.query_all(&query, &[&since, &ids], |row| {
                let profiles = serde_json::from_str(&row.get::<String>(1)?)?;
                Ok(Present { group: row.get(0)?, profiles, is_closed: row.get(2)? })
            })
        })?;
        if present.is_empty() && !local.is_empty() {
            // It has not asked for a job yet.
            let profiles = BTreeSet::new();
            present.push(Present { group: None, profiles, is_closed: false });
        }
        Ok(present)
    }

    /// The latest known process of a runner.
    pub(crate) fn latest(&self, runner: Uuid) -> Result<Incarnation> {
        let known = self.db.read("look for a runner", move |tx| Known::find(tx, runner))?;
        Ok(Incarnation { runner, generation: known.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn backend(dir: &std::path::Path) -> Backend {
        Backend::open(Config::new(dir)).unwrap()
    }

    fn beat(backend: &Backend, runner: Runner) -> Incarnation {
        backend.record_heartbeat(runner, Vec::new()).unwrap()
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
            ..Runner::default()
        }
    }

    fn profiles(backend: &Backend) -> Vec<String> {
        backend.present().unwrap().into_iter().flat_map(|one| one.profiles).collect()
    }

    #[test]
    fn profiles_of_a_runner_accumulate_until_it_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        assert_eq!(backend.present().unwrap(), []);
        beat(&backend, runner(1, 1, &[]));
        assert_eq!(backend.present().unwrap().len(), 1);
        assert_eq!(profiles(&backend), [""; 0]);
        beat(&backend, runner(1, 2, &["big", "small"]));
        beat(&backend, runner(1, 3, &[]));
        backend.record_poll(Uuid::nil(), Some("a/b"), &["small".to_owned()]).unwrap();
        assert_eq!(profiles(&backend), ["big", "small"]);
        beat(&backend, runner(2, 1, &["small"]));
        assert_eq!(profiles(&backend), ["small"]);
    }

    #[test]
    fn an_overtaken_heartbeat_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        beat(&backend, runner(2, 5, &[]));
        beat(&backend, runner(2, 4, &[]));

        let latest = beat(&backend, runner(1, 9, &[]));

        assert_eq!(latest.generation, 2);
        assert_eq!(backend.runners().unwrap()[0].sequence, 5);
    }

    #[test]
    fn a_runner_that_is_silent_for_a_minute_is_not_present() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        beat(&backend, runner(1, 1, &["small"]));
        let set = "UPDATE runners SET present = present - 60000, seen = seen - 60000";
        backend.db.write("let time pass", move |tx| tx.execute(set, &[])).unwrap();

        assert_eq!(backend.present().unwrap(), []);
        let listed = &backend.runners().unwrap()[0];
        assert!(listed.age_ms >= 60_000 && listed.lost);
    }

    #[test]
    fn a_lost_runner_leaves_the_list_after_an_hour_and_the_database_after_a_day_unless_drained() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        beat(&backend, runner(1, 1, &["small"]));
        let pass = |ms: i64| {
            let set = "UPDATE runners SET present = present - ?1, seen = seen - ?1";
            backend.db.write("let time pass", move |tx| tx.execute(set, &[&ms])).unwrap();
        };
        pass(3_600_001);
        let after_an_hour = backend.runners().unwrap().len();
        let id = Uuid::nil();
        let set = "UPDATE runners SET drained = ?2 WHERE id = ?1";
        let drain = |to: bool| {
            backend.db.write("drain it", move |tx| tx.execute(set, &[&id, &to])).unwrap();
        };
        drain(true);
        pass(24 * 3_600_000);
        backend.prune(Duration::ZERO).unwrap();
        let drained = backend.runners().unwrap().len();
        drain(false);
        backend.prune(Duration::ZERO).unwrap();
        drain(true);

        assert_eq!((after_an_hour, drained, backend.runners().unwrap().len()), (0, 1, 0));
    }
}
