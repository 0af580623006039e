//! Attempts at jobs: offered, claimed, completed, lost.
//!
//! ```text
//!            claim                        complete
//!   queued ────────▶ running: attempt n ────────────▶ completed | failed | cancelled
//!      ▲                 │ live                          attempt: ended
//!      └─────────────────┘
//!        lease expired, or given back: attempt n is lost, its token revoked
//! ```
//!
//! INVARIANT: a running job has exactly one live attempt, the one in its row; no other job has any.

mod claim;
mod complete;
mod context;
mod lease;
mod lose;
mod offer;

use uuid::Uuid;

pub(crate) use self::claim::Claimant;
pub use self::complete::Completed;
pub(crate) use self::lose::Loss;
pub use self::offer::Wanted;
pub(crate) use self::offer::{HOLDER, LOST_LISTED, RESERVED, SILENT};
use crate::backend::Backend;
use crate::db::{Outcome, Tx};
use crate::health;
use crate::key::Tag;
use crate::{Refusal, Result, RunId};

impl Backend {
    /// The attempt that a token belongs to, as `<run>/<attempt>`, before the body is read.
    pub(crate) fn owner(&self, token: &Tag) -> Result<String> {
        let token = *token;
        self.db.read("look for a token", move |tx| {
            let query = "SELECT run, attempts.attempt, state
                         FROM attempts JOIN jobs ON jobs.id = job WHERE token_hash = ?1";
            let found = tx.query_opt(query, &[&token], |row| {
                Ok((row.get::<RunId>(0)?, row.get::<u32>(1)?, row.get::<String>(2)?))
            })?;
            let (run, attempt, state) = found.ok_or(Refusal::Unauthenticated)?;
            match state.as_str() {
                "lost" => Err(Refusal::Superseded { attempt }.into()),
                _ => Ok(format!("{run}/{attempt}")),
            }
        })
    }
}

/// An attempt that a token has authenticated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) job: i64,
    pub(crate) attempt: u32,
    /// When it ended, if it has.
    pub(crate) ended: Option<i64>,
    /// Whether its job was submitted with secrets.
    has_secrets: bool,
    /// The runner that claimed it, if it said who it is.
    runner: Option<Uuid>,
    claimed: i64,
    /// Whether the guest has sent anything.
    begun: bool,
}

impl Caller {
    /// The attempt of a token that belongs to this run and is not revoked.
    pub(crate) fn authorize(tx: &Tx<'_>, token: &Tag, run: &RunId) -> Outcome<Self> {
        let job = "SELECT 1 FROM jobs WHERE id = (SELECT job FROM attempts WHERE token_hash = ?1)";
        tx.lock(job, &[token])?;
        let query =
            "SELECT job, attempts.attempt, state, ended, run, has_secrets, runner, claimed, begun
                     FROM attempts JOIN jobs ON jobs.id = job WHERE token_hash = ?1";
        let found = tx.query_opt(query, &[token], |row| {
            let caller = Self {
                job: row.get(0)?,
                attempt: row.get(1)?,
                ended: row.get(3)?,
                has_secrets: row.get(5)?,
                runner: row.get(6)?,
                claimed: row.get(7)?,
                begun: row.get(8)?,
            };
            Ok((caller, row.get::<String>(2)?, row.get::<RunId>(4)?))
        })?;
        let (caller, state, owner) = found.ok_or(Refusal::Unauthenticated)?;
        if owner != *run {
            return Err(Refusal::WrongRun.into());
        }
        if state == "lost" {
            return Err(Refusal::Superseded { attempt: caller.attempt }.into());
        }
        Ok(caller)
    }

    /// As [`Caller::authorize`], for a live attempt only.
    pub(crate) fn live(tx: &Tx<'_>, token: &Tag, run: &RunId) -> Outcome<Self> {
        let caller = Self::authorize(tx, token, run)?;
        if caller.ended.is_some() { Err(Refusal::Ended.into()) } else { Ok(caller) }
    }

    /// Records that the guest is there: its runner starts VMs as it should.
    pub(crate) fn begin(&self, tx: &Tx<'_>) -> Outcome<()> {
        if self.begun {
            return Ok(());
        }
        if let Some(runner) = self.runner {
            health::clear(tx, runner)?;
        }
        let set = "UPDATE attempts SET begun = 1 WHERE job = ?1 AND attempt = ?2";
        tx.execute(set, &[&self.job, &self.attempt]).map(drop)
    }

    /// Records a sign of life.
    pub(crate) fn touch(&self, tx: &Tx<'_>) -> Outcome<()> {
        let set = "UPDATE attempts SET seen = ?3 WHERE job = ?1 AND attempt = ?2";
        tx.execute(set, &[&self.job, &self.attempt, &tx.now()]).map(drop)
    }

    /// Rejects data that may contain the job's secrets if they cannot be masked any more.
    pub(crate) fn check_masked(&self, is_masked: bool) -> Result<(), Refusal> {
        if self.has_secrets && !is_masked { Err(Refusal::SecretsGone) } else { Ok(()) }
    }
}
