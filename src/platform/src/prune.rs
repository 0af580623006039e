//! Retention: removes old jobs and unreferenced content.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, TELEMETRY_GRACE};
use crate::blob::Blobs;
use crate::clock::millis;
use crate::db::{Outcome, Tx};
use crate::store::{Objects, Page, Store};
use crate::{Result, RunId, fleet};

/// The time in which a started upload must be committed. Younger content without a reference is
/// kept.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long after its last request a runner is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// The numbers of removed items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Finished jobs.
    pub jobs: usize,
    /// Versions of storages that no job and no checkpoint references.
    pub versions: usize,
    /// Archives, manifests and histories.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Backend {
    /// Removes jobs that ended longer than `keep` ago with all their data, and unreferenced
    /// content. A job whose checkpoint an open job resumes stays.
    pub(crate) fn prune(&self, keep: Duration) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        // One transaction per job: other threads wait for the database only that long.
        for job in self.db.read("list old jobs", move |tx| old_jobs(tx, keep))? {
            if self.notifier.is_stopped() {
                return Ok(pruned);
            }
            pruned.jobs += self.db.write("remove a job", move |tx| remove(tx, job))?;
        }
        self.db.write("remove lost runners", |tx| {
            fleet::forget(tx, tx.now().saturating_sub(millis(FORGOTTEN)))
        })?;
        pruned.versions = self.db.write("remove old versions", move |tx| old_content(tx, keep))?;
        match &self.store {
            Store::Files(blobs) => self.prune_files(blobs, keep.min(GRACE), &mut pruned)?,
            Store::Bucket(objects) => self.prune_objects(objects, keep.min(GRACE), &mut pruned)?,
        }
        if pruned != Pruned::default() {
            let Pruned { jobs, versions, blobs, bytes } = pruned;
            log::info!("pruned; jobs={jobs} versions={versions} blobs={blobs} bytes={bytes}");
        }
        Ok(pruned)
    }

    fn prune_files(&self, blobs: &Arc<Blobs>, age: Duration, pruned: &mut Pruned) -> Result<()> {
        for blob in blobs.older_than(age)? {
            if self.notifier.is_stopped() {
                break;
            }
            let blobs = Arc::clone(blobs);
            let digest = blob.digest;
            // Who adds a reference locks the content, too: an earlier reference is seen, and a later one
            // finds the content missing.
            let is_gone = self.db.write("remove content", move |tx| {
                tx.lock_names(&[&digest])?;
                let is_named = is_named(tx, &digest)?;
                if !is_named {
                    blobs.remove(&digest)?;
                }
                Ok(!is_named)
            })?;
            pruned.blobs += usize::from(is_gone);
            pruned.bytes += if is_gone { blob.size } else { 0 };
        }
        Ok(())
    }

    /// No lock is held while the store works: an object's name is in the database before the object exists,
    /// and never again once it is gone from there.
    fn prune_objects(&self, objects: &Objects, age: Duration, pruned: &mut Pruned) -> Result<()> {
        let mut after = String::new();
        loop {
            let Page { old, last } = objects.page(&after, age)?;
            let Some(last) = last else { break };
            after = last;
            let unnamed = self.db.read("find unreferenced content", move |tx| {
                let named = old.iter().map(|(name, size)| Ok((is_named(tx, name)?, (name, *size))));
                let unnamed = named.filter_map(|one| match one {
                    Ok((true, _)) => None,
                    Ok((false, (name, size))) => Some(Ok((name.clone(), size))),
                    Err(failure) => Some(Err(failure)),
                });
                unnamed.collect::<Outcome<Vec<_>>>()
            })?;
            for (name, size) in unnamed {
                if self.notifier.is_stopped() {
                    return Ok(());
                }
                objects.remove(&name)?;
                pruned.blobs += 1;
                pruned.bytes += size;
            }
        }
        objects.sweep(age, &|| self.notifier.is_stopped())
    }

    /// Drops the masks of jobs that may not report any more.
    pub(crate) fn forget_masks(&self) -> Result<()> {
        let reporting: Vec<RunId> = self.db.read("list reporting jobs", |tx| {
            let since = tx.now().saturating_sub(millis(TELEMETRY_GRACE));
            let query = "SELECT run FROM jobs WHERE finished IS NULL OR finished > ?1";
            tx.query_all(query, &[&since], |row| row.get(0))
        })?;
        self.secrets.forget_masks(&HashSet::from_iter(reporting));
        Ok(())
    }
}

/// The condition that no open job resumes from a job.
const UNUSED: &str = "id NOT IN (
    SELECT job FROM checkpoints WHERE id IN (
        SELECT resumed FROM jobs WHERE status IN ('queued', 'running')))";

/// Removes a job, unless an open job resumes from it: it may have been submitted since the job was
/// listed.
fn remove(tx: &Tx<'_>, job: i64) -> Outcome<usize> {
    // A submission that resumes from the job locks it, too.
    tx.lock("SELECT 1 FROM jobs WHERE id = ?1", &[&job])?;
    let delete = format!("DELETE FROM jobs WHERE id = ?1 AND {UNUSED}");
    tx.execute(&delete, &[&job])
}

fn old_jobs(tx: &Tx<'_>, keep: Duration) -> Outcome<Vec<i64>> {
    let before = tx.now().saturating_sub(millis(keep));
    let query = format!("SELECT id FROM jobs WHERE finished <= ?1 AND {UNUSED}");
    tx.query_all(&query, &[&before], |row| row.get(0))
}

/// Removes unreferenced versions and unfinished uploads; returns the number of versions.
fn old_content(tx: &Tx<'_>, keep: Duration) -> Outcome<usize> {
    let stale = tx.now().saturating_sub(millis(keep.min(GRACE)));
    tx.execute("DELETE FROM uploads WHERE created <= ?1", &[&stale])?;
    tx.execute("DELETE FROM staged WHERE created <= ?1", &[&stale])?;
    let versions = tx.execute(
        "DELETE FROM versions WHERE created <= ?1
             AND NOT EXISTS (SELECT 1 FROM mounts AS m
                 WHERE m.storage = versions.storage AND m.version = versions.version)
             AND NOT EXISTS (SELECT 1 FROM snapshots AS s
                 WHERE s.storage = versions.storage AND s.version = versions.version)",
        &[&stale],
    )?;
    tx.execute(
        "DELETE FROM histories WHERE created <= ?1
             AND hash NOT IN (SELECT history FROM checkpoints WHERE history IS NOT NULL)",
        &[&stale],
    )?;
    tx.execute(
        "DELETE FROM storages WHERE created <= ?1
             AND id NOT IN (SELECT storage FROM versions)
             AND id NOT IN (SELECT storage FROM uploads)",
        &[&stale],
    )?;
    Ok(versions)
}

fn is_named(tx: &Tx<'_>, digest: &str) -> Outcome<bool> {
    let query = "SELECT 1 FROM versions WHERE archive = ?1 OR manifest = ?1
                 UNION ALL SELECT 1 FROM histories WHERE blob = ?1
                 UNION ALL SELECT 1 FROM uploads WHERE archive = ?1 OR manifest = ?1
                 UNION ALL SELECT 1 FROM staged WHERE name = ?1";
    tx.exists(query, &[&digest])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Claimant;
    use crate::job::Status;
    use crate::{Config, Error, Refusal, Submission};

    /// A platform with an ended job and its checkpoint; and that job.
    fn with_checkpoint(dir: &std::path::Path) -> (Backend, RunId) {
        let backend = Backend::open(Config::new(dir)).unwrap();
        let submission = Submission { prompt: "x".into(), ..Submission::default() };
        let run = backend.submit(submission, &crate::principal::Principal::Host).unwrap().run_id;
        backend
            .db
            .write("end it", |tx| {
                tx.execute("UPDATE jobs SET status = 'completed', finished = 1", &[])?;
                let history = "INSERT INTO histories VALUES ('h', 'identity', 1, 'b', 1, 1)";
                tx.execute(history, &[])?;
                let checkpoint = "INSERT INTO checkpoints
                                  VALUES ('c', 1, 1, 'claude-code', 's', 'h', 1, 0)";
                tx.execute(checkpoint, &[])
            })
            .unwrap();
        (backend, run)
    }

    fn resume(backend: &Backend, run: RunId) -> RunId {
        let resume = Some(run);
        let submission = Submission { prompt: "y".into(), resume, ..Submission::default() };
        backend.submit(submission, &crate::principal::Principal::Host).unwrap().run_id
    }

    #[test]
    fn a_job_that_was_resumed_since_it_was_listed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (backend, run) = with_checkpoint(dir.path());
        let listed = backend.db.read("list", |tx| old_jobs(tx, Duration::ZERO)).unwrap();
        resume(&backend, run);

        let removed = backend.db.write("remove", move |tx| remove(tx, listed[0])).unwrap();

        assert_eq!(removed, 0);
        assert_eq!(backend.job(run).unwrap().status, Status::Completed);
    }

    #[test]
    fn a_job_with_a_missing_session_fails_instead_of_starting_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let (backend, run) = with_checkpoint(dir.path());
        let next = resume(&backend, run);
        let delete = "DELETE FROM checkpoints";
        backend.db.write("lose it", move |tx| tx.execute(delete, &[])).unwrap();

        let claimed = backend.claim(next, Claimant::default(), "");

        assert!(matches!(claimed.err(), Some(Error::Refused(Refusal::Ended))));
        let job = backend.job(next).unwrap();
        assert_eq!(job.status, Status::Failed);
        assert_eq!(job.error.unwrap(), "the session that it resumes is gone");
    }
}
