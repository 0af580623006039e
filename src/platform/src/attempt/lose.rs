//! Attempts that end without a completion: the lease expires, the runner gives the job back, or the
//! time-out or the cancellation takes too long.

use std::time::{Duration, Instant};

use base::deadline::after;
use uuid::Uuid;

use super::complete::end_attempt;
use crate::backend::Backend;
use crate::clock::{millis, now_ms};
use crate::db::{Outcome, Tx};
use crate::job::Status;
use crate::notifier::Topic;
use crate::presence::Incarnation;
use crate::{Result, RunId};

/// An attempt that is live according to the database.
struct Live {
    job: i64,
    run: RunId,
    attempt: u32,
    owner: Option<Incarnation>,
    started: i64,
    timeout: Option<i64>,
    cancelled: Option<i64>,
}

/// What to do about a live attempt.
enum Verdict {
    /// Nothing to do before this instant.
    Alive(Instant),
    /// Its time-out has passed: cancel it.
    TimedOut,
    /// It was cancelled and has not ended in time.
    Overdue,
    /// Its lease has expired.
    Lost,
}

impl Backend {
    /// Ends or cancels the live attempts whose deadline has passed; returns the next deadline.
    pub(crate) fn enforce_deadlines(&self) -> Result<Option<Instant>> {
        let mut next: Option<Instant> = None;
        let mut failed = Ok(());
        for live in self.db.read("list live attempts", live)? {
            let done = match self.assess(&live) {
                Verdict::Alive(until) => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                    Ok(())
                }
                Verdict::TimedOut => self.time_out(&live),
                Verdict::Overdue => self.give_up(
                    &live,
                    "it did not end within its grace period after the cancellation",
                ),
                Verdict::Lost => self.lose(live.run, live.attempt, "no sign of life"),
            };
            // A failure must not prevent the work for other attempts.
            failed = failed.and(done);
        }
        failed.map(|()| next)
    }

    /// Marks an attempt as lost. The job is queued again, or fails after `Config::attempts` attempts. An
    /// attempt that has ended meanwhile stays as it is.
    pub(crate) fn lose(&self, run: RunId, attempt: u32, reason: &'static str) -> Result<()> {
        let most = self.config.attempts;
        let status = self.db.write("give a job back", move |tx| {
            let Some(job) = running(tx, &run, attempt)? else { return Ok(None) };
            let query = "SELECT cancelled IS NOT NULL FROM jobs WHERE id = ?1";
            let is_cancelled: bool = tx.query_one(query, &[&job], |row| row.get(0))?;
            end_attempt(tx, job, "lost")?;
            if is_cancelled || attempt >= most {
                let error = format!("attempt {attempt} was lost: {reason}");
                end_job(tx, job, &error)?;
                return Ok(Some(Status::Failed));
            }
            let set = "UPDATE jobs SET status = 'queued', started = NULL WHERE id = ?1";
            tx.execute(set, &[&job])?;
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
        let all = self.db.read("list live attempts", live)?;
        Ok(all.into_iter().filter(owned).map(|live| (live.run, live.attempt)).collect())
    }

    fn assess(&self, live: &Live) -> Verdict {
        let (now, clock) = (Instant::now(), now_ms());
        let until = |due: i64| now + Duration::from_millis(due.saturating_sub(clock).max(0) as u64);
        let over = |due: i64| due <= clock;
        let seen = self.presence.last_seen(live.run, live.attempt, live.owner);
        let lease = after(seen, self.config.lease);
        if lease <= now {
            return Verdict::Lost;
        }
        let due = match (live.cancelled, live.timeout) {
            (Some(asked), _) => {
                let due = asked.saturating_add(millis(self.config.cancel_grace));
                if over(due) {
                    return Verdict::Overdue;
                }
                Some(due)
            }
            (None, Some(timeout)) => {
                let due = live.started.saturating_add(timeout);
                if over(due) {
                    return Verdict::TimedOut;
                }
                Some(due)
            }
            (None, None) => None,
        };
        // The lease bounds the wait: the wall clock may have been set back.
        Verdict::Alive(due.map_or(lease, |due| lease.min(until(due))))
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
    tx.execute(set, &[&job, &tx.now(), &error]).map(drop)
}

fn live(tx: &Tx<'_>) -> Outcome<Vec<Live>> {
    let query = "SELECT jobs.id, run, attempts.attempt, runner, generation, claimed, timeout,
                     cancelled
                 FROM jobs JOIN attempts
                 ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
                 WHERE status = 'running'";
    tx.query_all(query, &[], |row| {
        let owner: Option<Uuid> = row.get(3)?;
        let generation = row.get(4)?;
        Ok(Live {
            job: row.get(0)?,
            run: row.get(1)?,
            attempt: row.get(2)?,
            owner: owner.map(|runner| Incarnation { runner, generation }),
            started: row.get(5)?,
            timeout: row.get(6)?,
            cancelled: row.get(7)?,
        })
    })
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
            admittable_profiles: Vec::new(),
            age_ms: 0,
        }
    }

    /// A job that an unknown runner claimed.
    fn claimed(backend: &Backend) -> RunId {
        let submission = Submission { prompt: "x".into(), ..Submission::default() };
        let run = backend.submit(submission).unwrap().run_id;
        let runner = Uuid::from_u128(7);
        let owner = Some(backend.presence.latest(runner));
        let request = Some("r".to_owned());
        backend.claim(run, Claimant { owner, request }, "").unwrap();
        run
    }

    /// When the only attempt was last seen.
    fn last_seen(backend: &Backend) -> Instant {
        let live = backend.db.read("list", live).unwrap().remove(0);
        backend.presence.last_seen(live.run, live.attempt, live.owner)
    }

    #[test]
    fn heartbeats_keep_a_job_alive_that_was_claimed_before_the_first_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        let claim = last_seen(&backend);

        backend.record_heartbeat(runner(5, 1)).unwrap();
        let first = last_seen(&backend);
        backend.record_heartbeat(runner(5, 2)).unwrap();

        assert!(first > claim);
        assert!(last_seen(&backend) > first);
    }

    #[test]
    fn heartbeats_of_a_restarted_runner_keep_a_job_alive_that_it_claimed_again() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        backend.record_heartbeat(runner(5, 1)).unwrap();
        let run = claimed(&backend);
        backend.record_heartbeat(runner(6, 1)).unwrap();
        let owner = Some(backend.presence.latest(Uuid::from_u128(7)));
        let again = Claimant { owner, request: Some("r".to_owned()) };
        assert_eq!(backend.claim(run, again, "").unwrap().attempt, 1);
        let claim = last_seen(&backend);

        backend.record_heartbeat(runner(6, 2)).unwrap();

        assert!(last_seen(&backend) > claim);
    }

    #[test]
    fn heartbeats_of_a_restarted_runner_do_not_keep_its_earlier_jobs_alive() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        let claim = last_seen(&backend);
        backend.record_heartbeat(runner(5, 1)).unwrap();

        backend.record_heartbeat(runner(6, 1)).unwrap();
        backend.record_heartbeat(runner(5, 2)).unwrap();

        assert_eq!(last_seen(&backend), claim);
    }
}
