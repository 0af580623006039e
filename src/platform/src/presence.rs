//! When each runner and attempt was last seen. This is in memory only: after a restart of the platform
//! each attempt gets a whole lease, as its heartbeats could not arrive meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use base::sync::{Mutex, MutexGuard};
use serde::Serialize;
use uuid::Uuid;

use crate::RunId;

/// For how long a runner counts as present after its last request. Polls are held for half of it.
const RUNNER_TIMEOUT: Duration = Duration::from_secs(60);

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

#[derive(Default)]
struct Sightings {
    attempts: HashMap<(RunId, u32), Instant>,
    runners: HashMap<Uuid, (Runner, Instant)>,
    local: HashSet<Incarnation>,
    profiles: HashMap<Uuid, (BTreeSet<String>, Instant)>,
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

impl Sightings {
    fn add_profiles(&mut self, runner: Uuid, profiles: &[String]) {
        let (known, seen) =
            self.profiles.entry(runner).or_insert_with(|| (BTreeSet::new(), Instant::now()));
        known.extend(profiles.iter().cloned());
        *seen = Instant::now();
    }
}

/// When each runner and attempt was last seen.
#[derive(Default)]
pub(crate) struct Presence {
    sightings: Mutex<Sightings>,
}

impl Presence {
    /// Records a request of an attempt.
    pub(crate) fn touch(&self, run: RunId, attempt: u32) {
        self.lock().attempts.insert((run, attempt), Instant::now());
    }

    /// Removes the attempts of a run that has ended.
    pub(crate) fn forget(&self, run: RunId) {
        self.lock().attempts.retain(|(other, _), _| *other != run);
    }

    /// Records a heartbeat; `false` if a later one arrived first, so that it is ignored.
    pub(crate) fn heartbeat(&self, runner: Runner) -> bool {
        let mut sightings = self.lock();
        let is_late = sightings.runners.get(&runner.runner_id).is_some_and(|(known, _)| {
            (known.generation, known.sequence) > (runner.generation, runner.sequence)
        });
        if !is_late {
            let before =
                sightings.runners.get(&runner.runner_id).map(|(known, _)| known.generation);
            if before.is_some_and(|generation| generation != runner.generation) {
                // Its configuration may have changed.
                sightings.profiles.remove(&runner.runner_id);
            }
            sightings.add_profiles(runner.runner_id, &runner.admittable_profiles);
            sightings.runners.insert(runner.runner_id, (runner, Instant::now()));
        }
        !is_late
    }

    /// Records that a runner polls for jobs of these profiles.
    pub(crate) fn record_profiles(&self, runner: Uuid, profiles: &[String]) {
        self.lock().add_profiles(runner, profiles);
    }

    /// Which profiles the present runners take.
    pub(crate) fn availability(&self) -> Availability {
        let sightings = self.lock();
        let is_local = |runner: &Uuid| sightings.local.iter().any(|here| here.runner == *runner);
        let is_there = |(runner, (_, seen)): &(&Uuid, &(_, Instant))| {
            is_local(runner) || seen.elapsed() < RUNNER_TIMEOUT
        };
        let there: Vec<_> =
            sightings.profiles.iter().filter(is_there).map(|(_, (all, _))| all).collect();
        match there[..] {
            [] if sightings.local.is_empty() => Availability::NoRunner,
            _ if there.is_empty() || there.iter().any(|all| all.is_empty()) => {
                Availability::Unknown
            }
            _ => Availability::Profiles(there.into_iter().flatten().cloned().collect()),
        }
    }

    /// The latest known process of a runner.
    pub(crate) fn latest(&self, runner: Uuid) -> Incarnation {
        let generation = self.lock().runners.get(&runner).map_or(0, |(known, _)| known.generation);
        Incarnation { runner, generation }
    }

    /// Counts a runner in this process as alive until [`Presence::leave`].
    pub(crate) fn join(&self, here: Incarnation) {
        self.lock().local.insert(here);
    }

    /// Whether it is a live runner in this process.
    pub(crate) fn is_local(&self, one: Incarnation) -> bool {
        self.lock().local.contains(&one)
    }

    pub(crate) fn leave(&self, here: Incarnation) {
        self.lock().local.remove(&here);
    }

    /// When an attempt was last seen: by its own requests, or by heartbeats of the runner process that
    /// claimed it. An attempt that was never seen counts as seen now.
    pub(crate) fn last_seen(
        &self,
        run: RunId,
        attempt: u32,
        owner: Option<Incarnation>,
    ) -> Instant {
        let now = Instant::now();
        let mut sightings = self.lock();
        let from_attempt = *sightings.attempts.entry((run, attempt)).or_insert(now);
        let Some(owner) = owner else {
            return from_attempt;
        };
        if sightings.local.contains(&owner) {
            return now;
        }
        match sightings.runners.get(&owner.runner) {
            Some((runner, seen)) if runner.generation == owner.generation => {
                from_attempt.max(*seen)
            }
            _ => from_attempt,
        }
    }

    /// The runners that sent a heartbeat since the platform started.
    pub(crate) fn runners(&self) -> Vec<Runner> {
        let sightings = self.lock();
        let with_age = |(runner, seen): &(Runner, Instant)| {
            let age_ms = u64::try_from(seen.elapsed().as_millis()).unwrap_or(u64::MAX);
            Runner { age_ms, ..runner.clone() }
        };
        sightings.runners.values().map(with_age).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Sightings> {
        self.sightings.lock()
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
    fn heartbeats_of_a_restarted_runner_do_not_extend_earlier_claims() {
        let presence = Presence::default();
        let run = RunId::random();
        let owner = |generation| Some(Incarnation { runner: Uuid::nil(), generation });
        let claimed = presence.last_seen(run, 1, owner(1));
        presence.heartbeat(runner(2, 1));

        assert_eq!(presence.last_seen(run, 1, owner(1)), claimed);
        assert!(presence.last_seen(run, 1, owner(2)) > claimed);
    }

    #[test]
    fn profiles_of_a_runner_accumulate_until_it_restarts() {
        let presence = Presence::default();
        let of = |generation, sequence, profiles: &[&str]| Runner {
            admittable_profiles: profiles.iter().map(|name| (*name).to_owned()).collect(),
            ..runner(generation, sequence)
        };
        let there = |profiles: &[&str]| {
            Availability::Profiles(profiles.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(presence.availability(), Availability::NoRunner);
        presence.heartbeat(of(1, 1, &[]));
        assert_eq!(presence.availability(), Availability::Unknown);
        presence.heartbeat(of(1, 2, &["big", "small"]));
        presence.heartbeat(of(1, 3, &[]));
        assert_eq!(presence.availability(), there(&["big", "small"]));
        presence.heartbeat(of(2, 1, &["small"]));
        assert_eq!(presence.availability(), there(&["small"]));
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
