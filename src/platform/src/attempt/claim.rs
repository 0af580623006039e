//! Claims: the first one gets the job. A repeated claim request gets the same attempt again.

use std::sync::Arc;

use serde_json::Value;

use super::complete::end_attempt;
use super::context::Context;
use super::lose::end_job;
use crate::backend::Backend;
use crate::db::{Outcome, Tx};
use crate::health;
use crate::job::{Status, find};
use crate::key::{Tag, hash, random};
use crate::notifier::Topic;
use crate::presence::Incarnation;
use crate::secret::Values;
use crate::token::Grant;
use crate::{Error, Refusal, Result, RunId};

/// The sender of a claim.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claimant {
    /// The runner, if the request names it. Its heartbeats then keep the attempt alive.
    pub(crate) owner: Option<Incarnation>,
    /// The idempotency key of the claim.
    pub(crate) request: Option<String>,
    /// Its token; `None` in this process.
    pub(crate) grant: Option<Grant>,
}

/// A job that was claimed.
pub(crate) struct Claim {
    pub(crate) attempt: u32,
    pub(crate) token: String,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) context: Value,
}

impl Backend {
    /// Claims a job; `base` is the base of the URLs for its guest. A job whose secrets or session are
    /// gone fails here, with the reason.
    pub(crate) fn claim(&self, run: RunId, claimant: Claimant, base: &str) -> Result<Claim> {
        // Before the claim, so that it fails if they cannot be read; they never change.
        let secrets = self.secrets_to_hide(&run)?;
        let (unusable, has_found) =
            (secrets.as_ref().err().copied(), matches!(secrets, Ok(Some(_))));
        let (keys, fresh) = (Arc::clone(&self.keys), random()?);
        let claimed = self.db.write("claim a job", move |tx| {
            let (job, status) = find(tx, &run)?;
            check_grant(tx, job, claimant.grant.as_ref())?;
            let again = repeated(tx, (job, status), claimant.request.as_deref(), &fresh)?;
            if again.is_none() && status != Status::Queued {
                return Err(Refusal::Taken.into());
            }
            check_group(tx, job, claimant.owner)?;
            let context = Context::read(tx, job)?;
            if let Some(reason) = unusable.or_else(|| context.flaw(has_found)) {
                end_attempt(tx, job, "lost")?;
                end_job(tx, job, reason)?;
                return Ok(Err(reason));
            }
            let (attempt, token) = match again {
                Some((attempt, nonce, known)) => {
                    let token = keys.known_run_token((&run, attempt), &nonce, &known);
                    // Its key was removed, so no request can have its token again.
                    let token = token.ok_or(Refusal::Taken)?;
                    bind(tx, (job, attempt), &claimant)?;
                    (attempt, token)
                }
                None => {
                    let attempt = next(tx, job)?;
                    let token = keys.run_token(&run, attempt, &fresh);
                    begin(tx, (job, attempt), &claimant, (&fresh, &hash(&token)))?;
                    (attempt, token)
                }
            };
            Ok(Ok((attempt, token, context)))
        })?;
        let (attempt, token, context) = claimed.map_err(|reason| {
            log::error!("a job cannot be started; run={run} reason={reason}");
            self.ended(run);
            Refusal::Ended
        })?;
        log::info!("job claimed; run={run} attempt={attempt}");
        self.notifier.notify(Topic::Deadline);
        self.notifier.notify(Topic::Job(run));
        let timeout_ms = context.timeout_ms;
        let secrets = secrets.ok().flatten().unwrap_or_default();
        let context = context.json(self, &token, secrets, base);
        Ok(Claim { attempt, token, timeout_ms, context })
    }
}

impl Backend {
    /// A job's secrets, or why they cannot be used. Secrets that cannot be masked are not given out.
    fn secrets_to_hide(&self, run: &RunId) -> Result<Result<Option<Values>, &'static str>> {
        let known = self.secrets.read(run).and_then(|values| {
            self.secrets.mask(run)?;
            Ok(values)
        });
        match known {
            Ok(values) => Ok(Ok(values)),
            Err(Error::BadRecord { .. } | Error::BadSecrets { .. } | Error::Forged { .. }) => {
                Ok(Err("its stored secrets are malformed: submit it again"))
            }
            Err(Error::Refused(_)) => {
                Ok(Err("its secrets are too large to be masked in its reports"))
            }
            Err(error) => Err(error),
        }
    }
}

/// Rejects a runner of another group than the job's.
fn check_group(tx: &Tx<'_>, job: i64, owner: Option<Incarnation>) -> Outcome<()> {
    let Some(owner) = owner else { return Ok(()) };
    let query = "SELECT 1 FROM jobs JOIN runners ON runners.id = ?2
                 WHERE jobs.id = ?1 AND jobs.runner_group <> runners.runner_group";
    if tx.exists(query, &[&job, &owner.runner])? {
        return Err(Refusal::WrongGroup.into());
    }
    Ok(())
}

/// Checks that the token is good for the job's group.
fn check_grant(tx: &Tx<'_>, job: i64, grant: Option<&Grant>) -> Outcome<()> {
    let Some(grant) = grant.filter(|grant| grant.group.is_some()) else { return Ok(()) };
    let query = "SELECT runner_group FROM jobs WHERE id = ?1";
    let group: Option<String> = tx.query_one(query, &[&job], |row| row.get(0))?;
    group.map_or(Ok(()), |group| grant.check_group(&group).map_err(Into::into))
}

/// The attempt that the same claim began already: an earlier request of it, or an earlier run of this
/// transaction, by its nonce.
fn repeated(
    tx: &Tx<'_>,
    (job, status): (i64, Status),
    request: Option<&str>,
    fresh: &[u8; 32],
) -> Outcome<Option<(u32, [u8; 32], Tag)>> {
    if status != Status::Running {
        return Ok(None);
    }
    let query = "SELECT attempt, nonce, token_hash FROM attempts
                 WHERE job = ?1 AND state = 'live' AND (claim_request = ?2 OR nonce = ?3)";
    tx.query_opt(query, &[&job, &request, fresh], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

/// Binds the attempt to the runner process that claimed it last: the first one may have died before it
/// got the reply.
fn bind(tx: &Tx<'_>, (job, attempt): (i64, u32), claimant: &Claimant) -> Outcome<()> {
    let set = "UPDATE attempts SET runner = ?3, generation = ?4, seen = ?5
               WHERE job = ?1 AND attempt = ?2";
    let owner = claimant.owner;
    let (runner, generation) = (owner.map(|owner| owner.runner), generation(owner));
    tx.execute(set, &[&job, &attempt, &runner, &generation, &tx.now()]).map(drop)
}

/// The generation of a claimant's process, as far as it is known.
fn generation(owner: Option<Incarnation>) -> i64 {
    owner.map_or(0, |owner| owner.generation)
}

fn next(tx: &Tx<'_>, job: i64) -> Outcome<u32> {
    tx.query_one("SELECT attempt + 1 FROM jobs WHERE id = ?1", &[&job], |row| row.get(0))
}

fn begin(
    tx: &Tx<'_>,
    (job, attempt): (i64, u32),
    claimant: &Claimant,
    (nonce, hash): (&[u8; 32], &Tag),
) -> Outcome<()> {
    let now = tx.now();
    let add = "INSERT INTO attempts (job, attempt, state, runner, generation, claim_request, nonce,
                   token_hash, claimed, seen)
               VALUES (?1, ?2, 'live', ?3, ?4, ?5, ?6, ?7, ?8, ?8)";
    let owner = claimant.owner;
    let (runner, generation) = (owner.map(|owner| owner.runner), generation(owner));
    let request = &claimant.request;
    tx.execute(add, &[&job, &attempt, &runner, &generation, request, nonce, hash, &now])?;
    if let Some(runner) = runner {
        health::claimed(tx, runner)?;
    }
    let set = "UPDATE jobs SET status = 'running', attempt = ?2, started = ?3 WHERE id = ?1";
    tx.execute(set, &[&job, &attempt, &now]).map(drop)
}
