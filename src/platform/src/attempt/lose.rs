//! Attempts that end otherwise than by a completion: nobody gives a sign of life, the runner gives
//! the job back, the job takes too long, its cancellation takes too long.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction};
use uuid::Uuid;

use super::complete::end_attempt;
use crate::backend::Backend;
use crate::bell::Topic;
use crate::clock::{after, millis, now_ms};
use crate::db::Outcome;
use crate::job::Status;
use crate::presence::Incarnation;
use crate::{Result, RunId};

/// An attempt that is live, as far as anybody knows.
struct Live {
    job: i64,
    run: RunId,
    attempt: u32,
    owner: Option<Incarnation>,
    started: i64,
    timeout: Option<i64>,
    cancelled: Option<i64>,
}

/// What is to be done about one.
enum Verdict {
    /// Nothing until then.
    Lives(Instant),
    /// Its time is over: it is asked to end.
    TimedOut,
    /// It was asked to end, and did not.
    Overdue,
    /// Nobody gives a sign of life.
    Lost,
}

impl Backend {
    /// Does what is due about live attempts, and says when to look again.
    pub(crate) fn look_after_attempts(&self) -> Result<Option<Instant>> {
        let mut next: Option<Instant> = None;
        let mut failed = Ok(());
        for live in self.db.read("list live attempts", live)? {
            let done = match self.judge(&live) {
                Verdict::Lives(until) => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                    Ok(())
                }
                Verdict::TimedOut => self.time_out(&live),
                Verdict::Overdue => self.give_up(&live, "it did not end when it was asked to"),
                Verdict::Lost => self.lose(live.run, live.attempt, "no sign of life"),
            };
            // One that cannot be helped must not keep us from the others.
            failed = failed.and(done);
        }
        failed.map(|()| next)
    }

    /// Ends an attempt whose runner is gone; the job is tried again, or fails if that was often
    /// enough. An attempt that has ended meanwhile is left alone.
    pub(crate) fn lose(&self, run: RunId, attempt: u32, reason: &'static str) -> Result<()> {
        let most = self.config.attempts;
        let status = self.db.write("give a job back", move |tx| {
            let Some(job) = running(tx, &run, attempt)? else { return Ok(None) };
            let query = "SELECT cancelled IS NOT NULL FROM jobs WHERE id = ?1";
            let is_cancelled: bool = tx.query_row(query, [job], |row| row.get(0))?;
            end_attempt(tx, job, "lost", now_ms())?;
            if is_cancelled || attempt >= most {
                let error = format!("attempt {attempt} was lost: {reason}");
                end_job(tx, job, &error)?;
                return Ok(Some(Status::Failed));
            }
            let set = "UPDATE jobs SET status = 'queued', started = NULL WHERE id = ?1";
            tx.execute(set, [job])?;
            Ok(Some(Status::Queued))
        })?;
        let Some(status) = status else { return Ok(()) };
        log::warn!("an attempt was lost; run={run} attempt={attempt} reason={reason}");
        if status.is_final() {
            self.ended(run);
        }
        self.bell.ring(Topic::Job(run));
        self.bell.ring(Topic::Work);
        Ok(())
    }

    /// The live attempts of a runner of this process that it claimed before it was started anew.
    pub(crate) fn orphans(&self, runner: Uuid) -> Result<Vec<(RunId, u32)>> {
        let owned = |live: &Live| {
            live.owner.is_some_and(|one| one.runner == runner && !self.presence.is_here(one))
        };
        let all = self.db.read("list live attempts", live)?;
        Ok(all.into_iter().filter(owned).map(|live| (live.run, live.attempt)).collect())
    }

    fn judge(&self, live: &Live) -> Verdict {
        let (now, clock) = (Instant::now(), now_ms());
        let until = |due: i64| now + Duration::from_millis(due.saturating_sub(clock).max(0) as u64);
        let over = |due: i64| due <= clock;
        let sign = self.presence.last_sign(live.run, live.attempt, live.owner);
        let lease = after(sign, self.config.lease);
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
        // A clock that was set back must not keep us from looking.
        Verdict::Lives(due.map_or(lease, |due| lease.min(until(due))))
    }

    fn time_out(&self, live: &Live) -> Result<()> {
        let (job, attempt) = (live.job, live.attempt);
        self.db.write("time a job out", move |tx| {
            let set = "UPDATE jobs SET cancelled = ?2, timed_out = 1
                       WHERE id = ?1 AND attempt = ?3 AND status = 'running' AND cancelled IS NULL";
            Ok(tx.execute(set, (job, now_ms(), attempt))?)
        })?;
        log::info!("job timed out; run={}", live.run);
        self.bell.ring(Topic::Work);
        self.bell.ring(Topic::Deadline);
        Ok(())
    }

    fn give_up(&self, live: &Live, reason: &'static str) -> Result<()> {
        let (run, attempt) = (live.run, live.attempt);
        let is_given_up = self.db.write("give a job up", move |tx| {
            let Some(job) = running(tx, &run, attempt)? else { return Ok(false) };
            end_attempt(tx, job, "lost", now_ms())?;
            end_job(tx, job, reason)?;
            Ok(true)
        })?;
        if is_given_up {
            log::warn!("job given up; run={run} attempt={attempt} reason={reason}");
            self.ended(run);
            self.bell.ring(Topic::Work);
        }
        Ok(())
    }
}

/// The job's row, if this attempt is still the one that runs.
fn running(tx: &Connection, run: &RunId, attempt: u32) -> Outcome<Option<i64>> {
    let query = "SELECT id FROM jobs WHERE run = ?1 AND attempt = ?2 AND status = 'running'";
    Ok(tx.prepare_cached(query)?.query_row((run, attempt), |row| row.get(0)).optional()?)
}

pub(super) fn end_job(tx: &Transaction<'_>, job: i64, error: &str) -> Outcome<()> {
    let set = "UPDATE jobs SET finished = ?2, error = ?3,
                   status = CASE WHEN cancelled IS NOT NULL AND NOT timed_out THEN 'cancelled'
                       ELSE 'failed' END
               WHERE id = ?1";
    tx.execute(set, (job, now_ms(), error))?;
    Ok(())
}

fn live(tx: &Connection) -> Outcome<Vec<Live>> {
    let query = "SELECT jobs.id, run, attempts.attempt, runner, generation, claimed, timeout,
                     cancelled
                 FROM jobs JOIN attempts
                 ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
                 WHERE status = 'running'";
    let mut statement = tx.prepare_cached(query)?;
    let rows = statement.query_map([], |row| {
        let runner: Option<String> = row.get(3)?;
        let generation = row.get(4)?;
        let owner = runner.and_then(|runner| runner.parse().ok());
        Ok(Live {
            job: row.get(0)?,
            run: row.get(1)?,
            attempt: row.get(2)?,
            owner: owner.map(|runner| Incarnation { runner, generation }),
            started: row.get(5)?,
            timeout: row.get(6)?,
            cancelled: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
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

    /// A job that a runner claimed of which nobody had heard.
    fn claimed(backend: &Backend) -> RunId {
        let submission = Submission { prompt: "x".into(), ..Submission::default() };
        let run = backend.submit(submission).unwrap().run_id;
        let runner = Uuid::from_u128(7);
        let owner = Some(backend.presence.latest(runner));
        let request = Some("r".to_owned());
        backend.claim(run, Claimant { owner, request }, "").unwrap();
        run
    }

    /// The last sign of life of the only attempt.
    fn sign(backend: &Backend) -> Instant {
        let live = backend.db.read("list", live).unwrap().remove(0);
        backend.presence.last_sign(live.run, live.attempt, live.owner)
    }

    #[test]
    fn a_job_claimed_before_its_runners_first_heartbeat_lives_by_the_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        let claim = sign(&backend);

        backend.hear(runner(5, 1)).unwrap();
        let first = sign(&backend);
        backend.hear(runner(5, 2)).unwrap();

        assert!(first > claim);
        assert!(sign(&backend) > first);
    }

    #[test]
    fn a_job_that_the_next_start_of_a_runner_claims_as_the_same_lives_by_its_heartbeats() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        backend.hear(runner(5, 1)).unwrap();
        let run = claimed(&backend);
        backend.hear(runner(6, 1)).unwrap();
        let owner = Some(backend.presence.latest(Uuid::from_u128(7)));
        let again = Claimant { owner, request: Some("r".to_owned()) };
        assert_eq!(backend.claim(run, again, "").unwrap().attempt, 1);
        let claim = sign(&backend);

        backend.hear(runner(6, 2)).unwrap();

        assert!(sign(&backend) > claim);
    }

    #[test]
    fn what_is_bound_to_one_start_of_a_runner_does_not_live_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        claimed(&backend);
        let claim = sign(&backend);
        backend.hear(runner(5, 1)).unwrap();

        backend.hear(runner(6, 1)).unwrap();
        backend.hear(runner(5, 2)).unwrap();

        assert_eq!(sign(&backend), claim);
    }
}
