//! Leases: how long an attempt lives without a sign of life. All is in the database, by its clock, so any
//! platform can judge any attempt.
//!
//! An attempt was last seen at the latest of: its own requests, the heartbeats of the runner process that
//! claimed it, the begin of the *service*. The service is interrupted when no platform could write for a
//! while: all were down, or the database was. Signs of life could not arrive then, so each attempt gets a
//! whole lease from the end of the interruption on. A clock that is set forward looks the same.

use std::time::Duration;

use uuid::Uuid;

use crate::RunId;
use crate::clock::millis;
use crate::db::{Outcome, Tx};
use crate::presence::Incarnation;

/// The least interruption that counts, and how often a platform writes that it serves while jobs run.
const SHORTEST_INTERRUPTION: Duration = Duration::from_secs(10);

/// The condition that an attempt is the one of a running job: there are few of them.
const RUNS: &str = "(job, attempt) IN (SELECT id, attempt FROM jobs WHERE status = 'running')";

/// How long the service may be silent without being interrupted.
pub(crate) fn interruption(lease: Duration) -> Duration {
    (lease / 3).max(SHORTEST_INTERRUPTION)
}

/// How often a platform must call [`renew`] while jobs run.
pub(crate) fn interval(lease: Duration) -> Duration {
    interruption(lease) / 4
}

/// An attempt that is live according to the database.
pub(super) struct Live {
    pub(super) job: i64,
    pub(super) run: RunId,
    pub(super) attempt: u32,
    pub(super) owner: Option<Incarnation>,
    pub(super) started: i64,
    pub(super) timeout: Option<i64>,
    pub(super) cancelled: Option<i64>,
    pub(super) seen: i64,
}

/// Writes that the service is there, and that the runners in this process are alive.
pub(super) fn renew(tx: &Tx<'_>, lease: Duration, local: &[Incarnation]) -> Outcome<()> {
    let now = tx.now();
    let ticked: i64 =
        tx.query_one("SELECT ticked FROM service WHERE id = 1", &[], |row| row.get(0))?;
    let silent = now.saturating_sub(ticked);
    let longest = millis(interruption(lease));
    if silent.saturating_abs() > longest {
        tx.execute("UPDATE service SET ticked = ?1, since = ?1 WHERE id = 1", &[&now])?;
        // The clock may have been set back.
        let clamp = format!("UPDATE attempts SET seen = ?1 WHERE seen > ?1 AND {RUNS}");
        tx.execute(&clamp, &[&now])?;
        tx.execute("UPDATE runners SET seen = ?1 WHERE seen > ?1", &[&now])?;
    } else if silent >= millis(interval(lease)) / 2 {
        tx.execute("UPDATE service SET ticked = ?1 WHERE id = 1", &[&now])?;
    }
    for one in local {
        let touch = format!(
            "UPDATE attempts SET seen = ?3 WHERE runner = ?1 AND generation = ?2 AND {RUNS}"
        );
        tx.execute(&touch, &[&one.runner, &one.generation, &now])?;
    }
    Ok(())
}

/// All live attempts.
pub(super) fn live(tx: &Tx<'_>) -> Outcome<Vec<Live>> {
    select(tx, None)
}

/// Whether a live attempt has given no sign of life for a lease.
pub(super) fn is_expired(tx: &Tx<'_>, job: i64, lease: Duration) -> Outcome<bool> {
    let found = select(tx, Some(job))?;
    Ok(found.iter().any(|live| live.seen.saturating_add(millis(lease)) <= tx.now()))
}

fn select(tx: &Tx<'_>, job: Option<i64>) -> Outcome<Vec<Live>> {
    let of_job = if job.is_some() { "AND jobs.id = ?1" } else { "AND CAST(?1 AS BIGINT) IS NULL" };
    let query = format!(
        "SELECT jobs.id, run, attempts.attempt, runner, attempts.generation, claimed, timeout,
             cancelled, attempts.seen, coalesce(runners.seen, 0), since
         FROM jobs
         JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
         JOIN service ON service.id = 1
         LEFT JOIN runners ON runners.id = attempts.runner
             AND runners.generation = attempts.generation
         WHERE status = 'running' {of_job}"
    );
    tx.query_all(&query, &[&job], |row| {
        let owner: Option<Uuid> = row.get(3)?;
        let generation = row.get(4)?;
        let (own, of_runner, since): (i64, i64, i64) = (row.get(8)?, row.get(9)?, row.get(10)?);
        Ok(Live {
            job: row.get(0)?,
            run: row.get(1)?,
            attempt: row.get(2)?,
            owner: owner.map(|runner| Incarnation { runner, generation }),
            started: row.get(5)?,
            timeout: row.get(6)?,
            cancelled: row.get(7)?,
            seen: own.max(of_runner).max(since),
        })
    })
}
