//! Who gave a sign of life when. It is in memory only: after a restart everybody starts anew, with
//! a whole lease, since nobody could give a sign to a platform that was not there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use base::sync::{Mutex, MutexGuard};
use serde::Serialize;
use uuid::Uuid;

use crate::RunId;

/// How long a runner counts as there without a word: polls are held for half of it.
const THERE: Duration = Duration::from_secs(60);

/// One start of a runner, who answers for what it claimed as long as it lives. Its generation is
/// 0 until a heartbeat says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation {
    pub(crate) runner: Uuid,
    pub(crate) generation: i64,
}

/// A runner as its last heartbeat told.
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

#[derive(Default)]
struct Signs {
    attempts: HashMap<(RunId, u32), Instant>,
    runners: HashMap<Uuid, (Runner, Instant)>,
    here: HashSet<Incarnation>,
    profiles: HashMap<Uuid, (BTreeSet<String>, Instant)>,
}

/// What runners there are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum There {
    Nobody,
    /// Some of which it is not known what they take.
    Unknown,
    /// All that they ever had room for.
    Profiles(BTreeSet<String>),
}

impl Signs {
    fn has_room_for(&mut self, runner: Uuid, profiles: &[String]) {
        let (known, seen) =
            self.profiles.entry(runner).or_insert_with(|| (BTreeSet::new(), Instant::now()));
        known.extend(profiles.iter().cloned());
        *seen = Instant::now();
    }
}

/// All signs of life.
#[derive(Default)]
pub(crate) struct Presence {
    signs: Mutex<Signs>,
}

impl Presence {
    /// Something came from an attempt.
    pub(crate) fn touch(&self, run: RunId, attempt: u32) {
        self.lock().attempts.insert((run, attempt), Instant::now());
    }

    /// An attempt has ended.
    pub(crate) fn forget(&self, run: RunId) {
        self.lock().attempts.retain(|(other, _), _| *other != run);
    }

    /// A heartbeat came. One that was overtaken by a later one is ignored; whether it was not.
    pub(crate) fn heartbeat(&self, runner: Runner) -> bool {
        let mut signs = self.lock();
        let is_late = signs.runners.get(&runner.runner_id).is_some_and(|(known, _)| {
            (known.generation, known.sequence) > (runner.generation, runner.sequence)
        });
        if !is_late {
            let before = signs.runners.get(&runner.runner_id).map(|(known, _)| known.generation);
            if before.is_some_and(|generation| generation != runner.generation) {
                // It may have been set up anew.
                signs.profiles.remove(&runner.runner_id);
            }
            signs.has_room_for(runner.runner_id, &runner.admittable_profiles);
            signs.runners.insert(runner.runner_id, (runner, Instant::now()));
        }
        !is_late
    }

    /// A runner asks for jobs of these profiles.
    pub(crate) fn asks_for(&self, runner: Uuid, profiles: &[String]) {
        self.lock().has_room_for(runner, profiles);
    }

    /// What runners there are.
    pub(crate) fn there(&self) -> There {
        let signs = self.lock();
        let is_here = |runner: &Uuid| signs.here.iter().any(|here| here.runner == *runner);
        let is_there = |(runner, (_, seen)): &(&Uuid, &(_, Instant))| {
            is_here(runner) || seen.elapsed() < THERE
        };
        let there: Vec<_> =
            signs.profiles.iter().filter(is_there).map(|(_, (all, _))| all).collect();
        match there[..] {
            [] if signs.here.is_empty() => There::Nobody,
            _ if there.is_empty() || there.iter().any(|all| all.is_empty()) => There::Unknown,
            _ => There::Profiles(there.into_iter().flatten().cloned().collect()),
        }
    }

    /// The latest start of a runner, as far as it is known.
    pub(crate) fn latest(&self, runner: Uuid) -> Incarnation {
        let generation = self.lock().runners.get(&runner).map_or(0, |(known, _)| known.generation);
        Incarnation { runner, generation }
    }

    /// A runner in this process lives until [`Presence::leave`].
    pub(crate) fn join(&self, here: Incarnation) {
        self.lock().here.insert(here);
    }

    /// Whether it is in this process and lives.
    pub(crate) fn is_here(&self, one: Incarnation) -> bool {
        self.lock().here.contains(&one)
    }

    pub(crate) fn leave(&self, here: Incarnation) {
        self.lock().here.remove(&here);
    }

    /// When there was the last sign that an attempt goes on: from itself, or from the very start of
    /// the runner that claimed it. An attempt of which nothing was heard begins now.
    pub(crate) fn last_sign(
        &self,
        run: RunId,
        attempt: u32,
        owner: Option<Incarnation>,
    ) -> Instant {
        let now = Instant::now();
        let mut signs = self.lock();
        let from_attempt = *signs.attempts.entry((run, attempt)).or_insert(now);
        let Some(owner) = owner else {
            return from_attempt;
        };
        if signs.here.contains(&owner) {
            return now;
        }
        match signs.runners.get(&owner.runner) {
            Some((runner, seen)) if runner.generation == owner.generation => {
                from_attempt.max(*seen)
            }
            _ => from_attempt,
        }
    }

    /// All runners that gave a heartbeat since the start.
    pub(crate) fn runners(&self) -> Vec<Runner> {
        let signs = self.lock();
        let with_age = |(runner, seen): &(Runner, Instant)| {
            let age_ms = u64::try_from(seen.elapsed().as_millis()).unwrap_or(u64::MAX);
            Runner { age_ms, ..runner.clone() }
        };
        signs.runners.values().map(with_age).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(generation: i64, sequence: i64) -> Runner {
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
            admittable_profiles: Vec::new(),
            age_ms: 0,
        }
    }

    #[test]
    fn a_restarted_runner_gives_no_sign_for_what_it_claimed_before() {
        let presence = Presence::default();
        let run = RunId::random();
        let owner = |generation| Some(Incarnation { runner: Uuid::nil(), generation });
        let claimed = presence.last_sign(run, 1, owner(1));
        presence.heartbeat(runner(2, 1));

        assert_eq!(presence.last_sign(run, 1, owner(1)), claimed);
        assert!(presence.last_sign(run, 1, owner(2)) > claimed);
    }

    #[test]
    fn a_runner_has_what_it_ever_had_room_for_until_it_is_started_anew() {
        let presence = Presence::default();
        let of = |generation, sequence, profiles: &[&str]| Runner {
            admittable_profiles: profiles.iter().map(|name| (*name).to_owned()).collect(),
            ..runner(generation, sequence)
        };
        let there = |profiles: &[&str]| {
            There::Profiles(profiles.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(presence.there(), There::Nobody);
        presence.heartbeat(of(1, 1, &[]));
        assert_eq!(presence.there(), There::Unknown);
        presence.heartbeat(of(1, 2, &["big", "small"]));
        presence.heartbeat(of(1, 3, &[]));
        assert_eq!(presence.there(), there(&["big", "small"]));
        presence.heartbeat(of(2, 1, &["small"]));
        assert_eq!(presence.there(), there(&["small"]));
    }

    #[test]
    fn an_overtaken_heartbeat_is_ignored() {
        let presence = Presence::default();
        presence.heartbeat(runner(2, 5));
        presence.heartbeat(runner(2, 4));
        presence.heartbeat(runner(1, 9));

        assert_eq!(presence.runners()[0].sequence, 5);
    }
}
