//! Secrets in the shared database, sealed, so that each platform has those of every job.
//!
//! INVARIANT: a record is written in the transaction that makes its job, and removed in the one that ends
//! it. So an open job's secrets are there, and no others.

use std::sync::Arc;

use super::{Found, Values};
use crate::db::{Db, Outcome, Row, Tx};
use crate::key::{Keys, Sealed, Unsealed};
use crate::{Error, Result, RunId};

/// The name that a record is bound to.
const NAME: &str = "job secrets";

/// How many records one transaction reads to seal them anew.
const BATCH: i64 = 100;

/// The records of a database.
pub(super) struct Records {
    db: Arc<Db>,
    keys: Arc<Keys>,
}

impl Records {
    pub(super) fn new(db: Arc<Db>, keys: Arc<Keys>) -> Self {
        Self { db, keys }
    }

    pub(super) fn seal(&self, run: &RunId, values: &Values) -> Result<Sealed> {
        let json = serde_json::to_vec(values);
        let json = json.map_err(|source| Error::BadSecrets { run: *run, source })?;
        self.keys.seal(NAME, run, json)
    }

    pub(super) fn read(&self, run: &RunId) -> Result<Found> {
        let of = *run;
        let found = self.db.read("read a job's secrets", move |tx| {
            let query = "SELECT has_secrets, key, sealed
                         FROM jobs LEFT JOIN secrets ON job = jobs.id WHERE run = ?1";
            tx.query_opt(query, &[&of], |row| {
                Ok((row.get::<bool>(0)?, row.get::<Option<String>>(1)?, row.get(2)?))
            })
        })?;
        match found {
            Some((_, Some(key), Some(bytes))) => {
                self.open(run, &Sealed { key, bytes }).map(Found::Values)
            }
            Some((false, ..)) => Ok(Found::Never),
            _ => Ok(Found::None),
        }
    }

    fn open(&self, run: &RunId, sealed: &Sealed) -> Result<Values> {
        match self.keys.open_sealed(NAME, run, sealed) {
            Unsealed::Plain(json) => serde_json::from_slice(&json)
                .map_err(|source| Error::BadSecrets { run: *run, source }),
            Unsealed::NoKey => Err(Error::UnknownKey { run: *run, key: sealed.key.clone() }),
            Unsealed::Forged => Err(Error::Forged { run: *run }),
        }
    }

    /// Seals records with the first key that are sealed with another one. One that cannot be opened does
    /// not prevent the others; its error is returned.
    pub(super) fn renew(&self) -> Result<()> {
        let mut failed = Ok(());
        let mut after = 0;
        loop {
            let first = self.keys.sealing_id().to_owned();
            let old = self.db.read("list secrets of old keys", move |tx| {
                let query = "SELECT job, run, key, sealed FROM secrets JOIN jobs ON jobs.id = job
                             WHERE key <> ?1 AND job > ?2 ORDER BY job LIMIT ?3";
                tx.query_all(query, &[&first, &after, &BATCH], old)
            })?;
            let Some((last, ..)) = old.last() else { return failed };
            after = *last;
            for (job, run, sealed) in old {
                failed = failed.and(self.renew_one(job, &run, sealed));
            }
        }
    }

    fn renew_one(&self, job: i64, run: &RunId, old: Sealed) -> Result<()> {
        let new = self.seal(run, &self.open(run, &old)?)?;
        self.db.write("seal secrets anew", move |tx| {
            // Unless another platform did, or the job has ended.
            let set = "UPDATE secrets SET key = ?2, sealed = ?3 WHERE job = ?1 AND sealed = ?4";
            tx.execute(set, &[&job, &new.key, &new.bytes, &old.bytes]).map(drop)
        })
    }
}

fn old(row: &Row<'_>) -> Outcome<(i64, RunId, Sealed)> {
    Ok((row.get(0)?, row.get(1)?, Sealed { key: row.get(2)?, bytes: row.get(3)? }))
}

/// Stores a new job's sealed secrets.
pub(crate) fn store(tx: &Tx<'_>, job: i64, sealed: &Sealed) -> Outcome<()> {
    let add = "INSERT INTO secrets (job, key, sealed) VALUES (?1, ?2, ?3)";
    tx.execute(add, &[&job, &sealed.key, &sealed.bytes]).map(drop)
}

/// Removes the sealed secrets of a job that ends.
pub(crate) fn forget(tx: &Tx<'_>, job: i64) -> Outcome<()> {
    tx.execute("DELETE FROM secrets WHERE job = ?1", &[&job]).map(drop)
}
