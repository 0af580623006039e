//! The health of runners: one that fails starts again and again gets no jobs for a while.
//!
//! A start has failed if its attempt was completed with an error before the guest sent anything.
//!
//! ```text
//!           starts of 3 jobs failed in 10 min, and none succeeded
//!  healthy ──────────────────────────────────────────────────────▶ unhealthy ◀──┐ the start of the trial failed:
//!     ▲                                                               │         │ 2, 4 … 32 min
//!     └── a guest began, or the operator clears it ◀── trial: one job ◀─────────┘
//!                                                       after 1 min
//! ```
//!
//! A job that failed to start is queued again while there is a runner that has not tried it. If it failed at
//! two or more, and ends so, it was the job: these runners are not blamed for it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::millis;
use crate::db::{Outcome, ToValue, Tx};
use crate::presence::RUNNER_TIMEOUT;

/// How many jobs in a row fail to start until a runner is unhealthy, and within which time.
const MOST_FAILURES: i64 = 3;
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The pause until the first trial. Each failed trial doubles it, five times at most.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const MOST_DOUBLINGS: u32 = 5;

/// For how long a job is not offered to a runner at which it failed to start.
pub(crate) const AVOIDED: Duration = Duration::from_secs(60);

/// The pause after the offer of a trial, until it is claimed.
const OFFERED: Duration = Duration::from_secs(2);

/// The most characters of a reason.
const LONGEST_REASON: usize = 300;

/// Whether a runner is offered jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Open,
    /// It is unhealthy, and may try one job.
    Trial,
    /// It is drained, or not healthy until this time.
    Closed(Option<i64>),
}

pub(crate) fn admission(tx: &Tx<'_>, runner: Uuid) -> Outcome<Admission> {
    let query = "SELECT drained, strikes, retry FROM runners WHERE id = ?1";
    let found = tx.query_opt(query, &[&runner], |row| {
        Ok(match (row.get::<bool>(0)?, row.get::<u32>(1)?, row.get::<i64>(2)?) {
            (true, _, _) => Admission::Closed(None),
            (false, 0, _) => Admission::Open,
            (false, _, retry) if retry <= tx.now() => Admission::Trial,
            (false, _, retry) => Admission::Closed(Some(retry)),
        })
    })?;
    Ok(found.unwrap_or(Admission::Open))
}

/// All runners that are not open.
pub(crate) fn closed(tx: &Tx<'_>) -> Outcome<HashMap<Uuid, Admission>> {
    let query = "SELECT id, drained, retry FROM runners WHERE drained = 1 OR strikes > 0";
    let all = tx.query_all(query, &[], |row| {
        let retry: i64 = row.get(2)?;
        let admission = match row.get::<bool>(1)? {
            true => Admission::Closed(None),
            false if retry <= tx.now() => Admission::Trial,
            false => Admission::Closed(Some(retry)),
        };
        Ok((row.get(0)?, admission))
    })?;
    Ok(all.into_iter().collect())
}

/// The jobs, and the runners at which each failed to start since a time.
pub(crate) fn avoided(tx: &Tx<'_>, since: i64) -> Outcome<HashSet<(i64, Uuid)>> {
    let query = "SELECT job, runner FROM start_failures WHERE failed > ?1";
    let all = tx.query_all(query, &[&since], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(all.into_iter().collect())
}

/// Keeps an unhealthy runner from a second trial until it has claimed the first.
pub(crate) fn offered(tx: &Tx<'_>, runner: Uuid) -> Outcome<()> {
    let set = "UPDATE runners SET retry = ?2 WHERE id = ?1 AND strikes > 0";
    tx.execute(set, &[&runner, &tx.now().saturating_add(millis(OFFERED))]).map(drop)
}

/// Keeps an unhealthy runner from a second trial while its first may run.
pub(crate) fn claimed(tx: &Tx<'_>, runner: Uuid) -> Outcome<()> {
    let query = "SELECT strikes FROM runners WHERE id = ?1 AND strikes > 0";
    let Some(strikes) = tx.query_opt(query, &[&runner], |row| row.get(0))? else { return Ok(()) };
    let set = "UPDATE runners SET retry = ?2 WHERE id = ?1 AND strikes > 0";
    tx.execute(set, &[&runner, &tx.now().saturating_add(pause(strikes))]).map(drop)
}

/// A guest of the runner has begun, or the operator says that the runner is well. Returns whether it was not.
pub(crate) fn clear(tx: &Tx<'_>, runner: Uuid) -> Outcome<bool> {
    let set =
        "UPDATE runners SET strikes = 0, retry = 0, reason = NULL WHERE id = ?1 AND strikes > 0";
    let was_unhealthy = tx.execute(set, &[&runner])? > 0;
    tx.execute("DELETE FROM start_failures WHERE runner = ?1", &[&runner])?;
    Ok(was_unhealthy)
}

/// A failed start.
pub(crate) struct Failure<'a> {
    pub(crate) job: i64,
    pub(crate) runner: Uuid,
    /// When the attempt was claimed.
    pub(crate) claimed: i64,
    /// Without secrets.
    pub(crate) error: &'a str,
}

/// Records a failed start. Returns whether another runner may try the job.
pub(crate) fn failed(tx: &Tx<'_>, failure: &Failure<'_>, may_repeat: bool) -> Outcome<bool> {
    let query = tx.locking("SELECT strikes, marked FROM runners WHERE id = ?1");
    let known: Option<(u32, i64)> =
        tx.query_opt(&query, &[&failure.runner], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some((strikes, marked)) = known else { return Ok(false) };
    let add = "INSERT INTO start_failures (job, runner, failed) VALUES (?1, ?2, ?3)
               ON CONFLICT (job, runner) DO UPDATE SET failed = ?3";
    tx.execute(add, &[&failure.job, &failure.runner, &tx.now()])?;
    let is_bad = match strikes {
        0 => recent_failures(tx, failure.runner)? >= MOST_FAILURES,
        // An attempt from before it was marked says nothing new.
        _ => failure.claimed >= marked,
    };
    if is_bad {
        mark(tx, failure, strikes + 1)?;
    }
    if may_repeat && may_start_elsewhere(tx, failure.job)? {
        return Ok(true);
    }
    if tried_at(tx, failure.job)?.len() > 1 {
        acquit(tx, failure.job)?;
    }
    Ok(false)
}

/// The runners at which a job failed to start.
pub(crate) fn tried_at(tx: &Tx<'_>, job: i64) -> Outcome<Vec<Uuid>> {
    let query = "SELECT runner FROM start_failures WHERE job = ?1 ORDER BY runner";
    tx.query_all(query, &[&job], |row| row.get(0))
}

fn recent_failures(tx: &Tx<'_>, runner: Uuid) -> Outcome<i64> {
    let query = "SELECT count(*) FROM start_failures WHERE runner = ?1 AND failed > ?2";
    let since = tx.now().saturating_sub(millis(WINDOW));
    tx.query_one(query, &[&runner, &since], |row| row.get(0))
}

fn mark(tx: &Tx<'_>, failure: &Failure<'_>, strikes: u32) -> Outcome<()> {
    let jobs = recent_failures(tx, failure.runner)?;
    let error: String = failure.error.chars().take(LONGEST_REASON).collect();
    let reason = format!("{jobs} jobs in a row did not start; the last: {error}");
    let set = "UPDATE runners SET strikes = ?2, marked = ?3, retry = ?4, reason = ?5 WHERE id = ?1";
    let retry = tx.now().saturating_add(pause(strikes));
    let row: [&dyn ToValue; 5] = [&failure.runner, &strikes, &tx.now(), &retry, &reason];
    tx.execute(set, &row)?;
    log::warn!("a runner is unhealthy; runner={} strikes={strikes}", failure.runner);
    Ok(())
}

/// The runners that a job failed at are not blamed for it.
fn acquit(tx: &Tx<'_>, job: i64) -> Outcome<()> {
    let runners = tried_at(tx, job)?;
    tx.execute("DELETE FROM start_failures WHERE job = ?1", &[&job])?;
    for runner in runners {
        let undo =
            "UPDATE runners SET strikes = strikes - 1, retry = ?2 WHERE id = ?1 AND strikes > 1";
        tx.execute(undo, &[&runner, &tx.now()])?;
        if recent_failures(tx, runner)? < MOST_FAILURES {
            let clear = "UPDATE runners SET strikes = 0, retry = 0, reason = NULL
                         WHERE id = ?1 AND strikes = 1";
            tx.execute(clear, &[&runner])?;
        }
    }
    Ok(())
}

/// Whether a healthy runner is there that may have the job and has not tried it.
fn may_start_elsewhere(tx: &Tx<'_>, job: i64) -> Outcome<bool> {
    let query = "SELECT profiles, profile FROM runners JOIN jobs ON jobs.id = ?1
                 WHERE present > ?2 AND is_open = 1 AND drained = 0 AND strikes = 0
                     AND (jobs.runner_group IS NULL OR runners.runner_group IS NULL
                         OR jobs.runner_group = runners.runner_group)
                     AND runners.id NOT IN (SELECT runner FROM start_failures WHERE job = ?1)";
    let since = tx.now().saturating_sub(millis(RUNNER_TIMEOUT));
    let others = tx.query_all(query, &[&job, &since], |row| {
        let profiles: Vec<String> = serde_json::from_str(&row.get::<String>(0)?)?;
        Ok((profiles, row.get::<Option<String>>(1)?))
    })?;
    let takes = |(profiles, profile): &(Vec<String>, Option<String>)| {
        profile.as_ref().is_none_or(|profile| profiles.contains(profile))
    };
    Ok(others.iter().any(takes))
}

fn pause(strikes: u32) -> i64 {
    let doublings = strikes.saturating_sub(1).min(MOST_DOUBLINGS);
    millis(FIRST_PAUSE).saturating_mul(1 << doublings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::backend::Backend;
    use crate::principal::Principal;

    #[test]
    fn an_unhealthy_runner_tries_one_job_after_its_pause_and_each_failure_doubles_it() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        let id = Uuid::from_u128(7);
        let change =
            move |statement: &'static str| move |tx: &Tx<'_>| tx.execute(statement, &[]).map(drop);
        let write = |statement| backend.db.write("change it", change(statement)).unwrap();
        let ask = || backend.db.read("ask", move |tx| admission(tx, id)).unwrap();
        backend.record_poll(id, None, &["default".to_owned()]).unwrap();
        write("UPDATE runners SET strikes = 1, marked = 1, retry = 5");

        let due = ask();
        backend.db.write("offer", move |tx| offered(tx, id)).unwrap();
        let while_offered = ask();
        write("UPDATE runners SET retry = 5");
        backend.db.write("claim", move |tx| claimed(tx, id)).unwrap();
        let while_tried = ask();
        let submission = crate::Submission { prompt: "x".into(), ..Default::default() };
        let run = backend.submit(submission, &Principal::Host);
        let run = run.unwrap().run_id;
        let fail = move |tx: &Tx<'_>| {
            let query = "SELECT id FROM jobs WHERE run = ?1";
            let job = tx.query_one(query, &[&run], |row| row.get(0))?;
            let failure = Failure { job, runner: id, claimed: tx.now(), error: "no KVM" };
            failed(tx, &failure, true)?;
            let query = "SELECT strikes, retry FROM runners WHERE id = ?1";
            tx.query_one(query, &[&id], |row| {
                Ok((row.get::<u32>(0)?, row.get::<i64>(1)? - tx.now()))
            })
        };
        let twice = backend.db.write("fail", fail).unwrap();
        backend.db.write("begin", move |tx| clear(tx, id)).unwrap();

        assert_eq!(due, Admission::Trial);
        assert!(matches!(while_offered, Admission::Closed(Some(_))), "{while_offered:?}");
        assert!(matches!(while_tried, Admission::Closed(Some(_))), "{while_tried:?}");
        assert_eq!(twice, (2, 120_000));
        assert_eq!(ask(), Admission::Open);
    }

    #[test]
    fn the_pause_doubles_up_to_half_an_hour() {
        assert_eq!([1, 2, 3].map(pause), [60_000, 120_000, 240_000]);
        assert_eq!([6, 7, 4_000_000_000].map(pause), [1_920_000; 3]);
    }
}
