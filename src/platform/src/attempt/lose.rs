//! Attempts that end without a completion: the lease expires, the runner gives the job back, or the
//! time-out or the cancellation takes too long.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::complete::end_attempt;
use super::lease::{Live, interval, is_expired, live, renew};
use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{Outcome, Tx};
use crate::job::Status;
use crate::notifier::Topic;
use crate::{Result, RunId, secret};

/// What to do about a live attempt.
enum Verdict {
    /// Nothing to do before this time of the database.
    Alive(i64),
    /// Its time-out has passed: cancel it.
    TimedOut,
    /// It was cancelled and has not ended in time.
    Overdue,
    /// Its lease has expired.
    Lost,
}

/// Why an attempt is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its lease has expired.
    Silent,
    GivenBack,
}

impl Loss {
    fn reason(self) -> &'static str {
        match self {
            Self::Silent => "no sign of life",
            Self::GivenBack => "its runner gave it back",
        }
    }
}

impl Backend {
    /// Ends or cancels the live attempts whose deadline has passed; returns when to look again. Any
    /// number of platforms may do this at once: each judges an attempt again under its job's lock.
    pub(crate) fn enforce_deadlines(&self) -> Result<Option<Instant>> {
        let (lease, local) = (self.config.lease, self.presence.local());
        let (now, found) = self.db.write_relaxed("list live attempts", move |tx| {
            // Nothing is written while no job runs.
            if live(tx)?.is_empty() {
                return Ok((tx.now(), Vec::new()));
            }
            renew(tx, lease, &local)?;
            Ok((tx.now(), live(tx)?))
        })?;
        // Jobs that other platforms hand out come without a notification.
        let is_watched = self.db.is_shared() || !found.is_empty();
        let mut next = is_watched.then(|| now.saturating_add(millis(interval(lease))));
        let mut failed = Ok(());
        for live in found {
            let done = match self.assess(&live, now) {
                Verdict::Alive(until) => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                    Ok(())
                }
                Verdict::TimedOut => self.time_out(&live),
                Verdict::Overdue => self.give_up(
                    &live,
                    "it did not end within its grace period after the cancellation",
                ),
                Verdict::Lost => self.lose(live.run, live.attempt, Loss::Silent),
            };
            // A failure must not prevent the work for other attempts.
            failed = failed.and(done);
        }
        let left = |until: i64| Duration::from_millis(until.saturating_sub(now).max(0) as u64);
        failed.map(|()| next.map(|next| Instant::now() + left(next)))
    }

    /// Marks an attempt as lost. The job is queued again, or fails after `Config::attempts` attempts. An
    /// attempt that has ended meanwhile stays as it is.
    pub(crate) fn lose(&self, run: RunId, attempt: u32, loss: Loss) -> Result<()> {
        let (most, lease, reason) = (self.config.attempts, self.config.lease, loss.reason());
        let status = self.db.write("give a job back", move |tx| {
            let Some(job) = running(tx, &run, attempt)? else { return Ok(None) };
            // A sign of life may have arrived at another platform.
            if loss == Loss::Silent && !is_expired(tx, job, lease)? {
                return Ok(None);
            }
            let query = "SELECT cancelled IS NOT NULL FROM jobs WHERE id = ?1";
            let is_cancelled: bool = tx.query_one(query, &[&job], |row| row.get(0))?;
            end_attempt(tx, job, "lost")?;
            if is_cancelled || attempt >= most {
                let error = format!("attempt {attempt} was lost: {reason}");
                end_job(tx, job, &error)?;
                return Ok(Some(Status::Failed));
            }
            queue_again(tx, job)?;
            Ok(Some(Status::Queued))
        })?;
        let Some(status) = status else { return Ok(()) };
        log::warn!("an attempt was lost; run={run} attempt={attempt} reason={reason}");
        if status.is_final() {
            self.ended(run);
        }
        self.notifier.notify(Topic::Job(run));
        self.notifier.notify(Topic::Work);
        Ok(())
    }

    /// The live attempts that an earlier process of this runner claimed.
    pub(crate) fn orphans(&self, runner: Uuid) -> Result<Vec<(RunId, u32)>> {
        let owned = |live: &Live| {
            live.owner.is_some_and(|one| one.runner == runner && !self.presence.is_local(one))
        };
        let all: Vec<Live> = self.db.read("list live attempts", live)?;
        Ok(all.into_iter().filter(owned).map(|live| (live.run, live.attempt)).collect())
    }

    fn assess(&self, live: &Live, now: i64) -> Verdict {
        let lease = live.seen.saturating_add(millis(self.config.lease));
        if lease <= now {
            return Verdict::Lost;
        }
        let due = match (live.cancelled, live.timeout) {
            (Some(asked), _) => Some(asked.saturating_add(millis(self.config.cancel_grace))),
            (None, Some(timeout)) => Some(live.started.saturating_add(timeout)),
            (None, None) => None,
        };
        match due {
            Some(due) if due <= now && live.cancelled.is_some() => Verdict::Overdue,
            Some(due) if due <= now => Verdict::TimedOut,
            // The lease bounds the wait: the clock may be set back.
            due => Verdict::Alive(due.map_or(lease, |due| lease.min(due))),
        }
    }

    fn time_out(&self, live: &Live) -> Result<()> {
        let (job, attempt) = (live.job, live.attempt);
        self.db.write("time a job out", move |tx| {
            let set = "UPDATE jobs SET cancelled = ?2, timed_out = 1
                       WHERE id = ?1 AND attempt = ?3 AND status = 'running' AND cancelled IS NULL";
            tx.execute(set, &[&job, &tx.now(), &attempt])
        })?;
        log::info!("job timed out; run={}", live.run);
        self.notifier.notify(Topic::Work);
        self.notifier.notify(Topic::Deadline);
        Ok(())
    }

    fn give_up(&self, live: &Live, reason: &'static str) -> Result<()> {
        let (run, attempt) = (live.run, live.attempt);
        let is_given_up = self.db.write("give a job up", move |tx| {
            let Some(job) = running(tx, &run, attempt)? else { return Ok(false) };
            end_attempt(tx, job, "lost")?;
            end_job(tx, job, reason)?;
            Ok(true)
        })?;
        if is_given_up {
            log::warn!("job given up; run={run} attempt={attempt} reason={reason}");
            self.ended(run);
            self.notifier.notify(Topic::Work);
        }
        Ok(())
    }
}

pub(super) fn queue_again(tx: &Tx<'_>, job: i64) -> Outcome<()> {
    let set = "UPDATE jobs SET status = 'queued', started = NULL, offered_to = NULL WHERE id = ?1";
    tx.execute(set, &[&job]).map(drop)
}

/// The job's row, if this attempt is still the one that runs.
fn running(tx: &Tx<'_>, run: &RunId, attempt: u32) -> Outcome<Option<i64>> {
    let query = "SELECT id FROM jobs WHERE run = ?1 AND attempt = ?2 AND status = 'running'";
    tx.query_opt(&tx.locking(query), &[run, &attempt], |row| row.get(0))
}

pub(super) fn end_job(tx: &Tx<'_>, job: i64, error: &str) -> Outcome<()> {
    let set = "UPDATE jobs SET finished = ?2, error = ?3,
                   status = CASE WHEN cancelled IS NOT NULL AND timed_out = 0 THEN 'cancelled'
                       ELSE 'failed' END
               WHERE id = ?1";
    tx.execute(set, &[&job, &tx.now(), &error])?;
    secret::forget(tx, job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Claimant;
    use crate::presence::Runner;
    use crate::{Config, Submission};

    fn runner(generation: i64, sequence: i64) -> Runner {
        Runner {
            runner_id: Uuid::from_u128(7),
            runner_name: "one".into(),
            group: "a/b".into(),
            mode: "running".into(),
            generation,
            sequence,
            total_vcpu: 1.0,
            total_memory_mb: 1.0,
            max_concurrent: 1,
            running_count: 0,
            ..Runner::default()
        }
    }

    fn beat(backend: &Backend, generation: i64, sequence: i64) {
        backend.record_heartbeat(runner(generation, sequence), Vec::new()).unwrap();
    }

    fn claim(backend: &Backend, run: RunId) {
        let owner = Some(backend.latest(Uuid::from_u128(7)).unwrap());
        let claimant = Claimant { owner, request: Some("r".to_owned()), grant: None };
        assert_eq!(backend.claim(run, claimant, "").unwrap().attempt, 1);
    }

    /// A job that a runner claimed.
    fn claimed(backend: &Backend) -> RunId {
        let submission = Submission { prompt: "x".into(), ..Submission::default() };
        let run = backend.submit(submission, &crate::principal::Principal::Host).unwrap().run_id;
        claim(backend, run);
        run
    }

    fn execute(backend: &Backend, statement: &'static str) {
        backend.db.write("change it", move |tx| tx.execute(statement, &[])).unwrap();
    }

    /// Lets time pass without a sign of life, as the database sees it. The service was there.
    fn wait(backend: &Backend, ms: i64) {
        for (table, column) in [("attempts", "seen"), ("runners", "seen"), ("service", "since")] {
            let set = format!("UPDATE {table} SET {column} = {column} - ?1");
            backend.db.write("let time pass", move |tx| tx.execute(&set, &[&ms])).unwrap();
        }
    }

    const LEASE: i64 = 150_000;

    /// Whether the only attempt is still live after its deadlines were enforced.
    fn is_alive(backend: &Backend) -> bool {
        backend.enforce_deadlines().unwrap();
        !backend.db.read("list", live).unwrap().is_empty()
    }

    #[test]
    fn an_attempt_is_lost_a_lease_after_its_last_sign_of_life() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        assert!(is_alive(&backend));

        wait(&backend, LEASE - 30_000);
        let before = is_alive(&backend);
        wait(&backend, 30_000);

        assert!(before);
        assert!(!is_alive(&backend));
    }

    #[test]
    fn heartbeats_keep_a_job_alive_that_was_claimed_before_the_first_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        assert!(is_alive(&backend));
        wait(&backend, LEASE);

        beat(&backend, 5, 1);

        assert!(is_alive(&backend));
        wait(&backend, LEASE);
        assert!(!is_alive(&backend));
    }

    #[test]
    fn heartbeats_of_a_restarted_runner_keep_a_job_alive_that_it_claimed_again() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        beat(&backend, 5, 1);
        let run = claimed(&backend);
        beat(&backend, 6, 1);
        claim(&backend, run);
        assert!(is_alive(&backend));
        wait(&backend, LEASE);

        // It is written at once, as it does not repeat the one before.
        let changed = Runner { running_count: 1, ..runner(6, 2) };
        backend.record_heartbeat(changed, Vec::new()).unwrap();

        assert!(is_alive(&backend));
    }

    #[test]
    fn heartbeats_of_a_restarted_runner_do_not_keep_its_earlier_jobs_alive() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        beat(&backend, 5, 1);
        assert!(is_alive(&backend));
        wait(&backend, LEASE);

        beat(&backend, 6, 1);
        beat(&backend, 5, 2);

        assert!(!is_alive(&backend));
    }

    #[test]
    fn each_attempt_gets_a_lease_after_an_interruption_of_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        assert!(is_alive(&backend));
        wait(&backend, 2 * LEASE);
        execute(&backend, "UPDATE service SET ticked = ticked - 60000");

        assert!(is_alive(&backend));
        wait(&backend, LEASE);
        assert!(!is_alive(&backend));
    }

    #[test]
    fn a_clock_that_is_set_back_extends_no_lease() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        assert!(is_alive(&backend));
        execute(&backend, "UPDATE service SET ticked = ticked + 3600000, since = 0");
        execute(&backend, "UPDATE attempts SET seen = seen + 3600000");

        assert!(is_alive(&backend));
        wait(&backend, LEASE);
        assert!(!is_alive(&backend));
    }

    #[test]
    fn a_sign_of_life_at_another_platform_is_seen_under_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        let run = claimed(&backend);

        backend.lose(run, 1, Loss::Silent).unwrap();

        assert!(is_alive(&backend));
    }
}
