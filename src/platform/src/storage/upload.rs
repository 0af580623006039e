//! Uploads to presigned URLs: archives and manifests of versions.

use std::sync::Arc;

use http_server::{Account, Body};
use serde::{Deserialize, Serialize};

use super::Upload;
use crate::backend::Backend;
use crate::bounded::list;
use crate::content_hash::{FileEntry, MOST_FILES, content_hash};
use crate::{Refusal, Result, RunId};

/// The largest manifest, as the largest list of files.
pub(crate) const LARGEST_LIST: u64 = 32 << 20;

/// A version's manifest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    #[serde(deserialize_with = "list::<_, _, MOST_FILES>")]
    pub(crate) files: Vec<FileEntry>,
    pub(crate) created_at: String,
}

/// The key of an upload, from the parameters of its signed URL.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) owner: String,
    pub(crate) storage: String,
    pub(crate) version: String,
}

/// The announced length of a body, of which nothing was read.
pub(crate) fn length(body: &Body<'_>) -> Result<u64, Refusal> {
    body.left().ok_or(Refusal::LengthRequired)
}

impl Backend {
    /// Receives an archive. A second one for the same version replaces the first until the commit.
    pub(crate) fn put_archive(&self, target: Target, body: &mut Body<'_>) -> Result<()> {
        self.upload(&target)?;
        let length = length(body)?;
        self.check_archive(length)?;
        let limit = self.config.largest_archive;
        self.charge_upload(&target.owner, length)?;
        let blob = self.store.files()?.receive(body, limit, &mut |_| Ok(()))?.keep()?;
        self.uploaded(target, "archive", blob.digest, Some(blob.size))
    }

    /// Receives a manifest, which must list the prepared files.
    pub(crate) fn put_manifest(
        &self,
        target: Target,
        body: &mut Body<'_>,
        account: Account,
    ) -> Result<()> {
        let content = self.upload(&target)?;
        self.charge_upload(&target.owner, length(body)?)?;
        let loaded = body.load(LARGEST_LIST, account)?;
        let manifest: Manifest = serde_json::from_slice(&loaded.bytes)
            .map_err(|error| Refusal::bad(format!("malformed manifest: {error}")))?;
        if content_hash(&target.storage, &manifest.files)? != content {
            return Err(Refusal::WrongHash.into());
        }
        let mut bytes = loaded.bytes.as_slice();
        let blobs = self.store.files()?;
        let blob = blobs.receive(&mut bytes, LARGEST_LIST, &mut |_| Ok(()))?.keep()?;
        self.uploaded(target, "manifest", blob.digest, None)
    }

    /// Counts the bytes of an upload before they are received: uncommitted uploads cannot fill the
    /// disk. Only a live attempt may upload.
    pub(crate) fn charge_upload(&self, owner: &str, size: u64) -> Result<()> {
        let Some((run, attempt)) = owner.split_once('/') else {
            return Ok(());
        };
        let (run, attempt): (RunId, u32) =
            (run.parse()?, attempt.parse().map_err(|_| Refusal::BadSignature)?);
        let limit = self.config.largest_upload;
        if size > limit {
            return Err(Refusal::TooLarge { limit, unit: "bytes for a run" }.into());
        }
        self.db.write("count an upload", move |tx| {
            let set = "UPDATE attempts SET uploaded_bytes = uploaded_bytes + ?3
                       WHERE job = (SELECT id FROM jobs WHERE run = ?1) AND attempt = ?2
                           AND state = 'live' RETURNING uploaded_bytes";
            let counted = tx.query_opt(set, &[&run, &attempt, &size], |row| row.get(0))?;
            let uploaded: u64 = counted.ok_or(Refusal::Ended)?;
            if uploaded > limit {
                return Err(Refusal::TooLarge { limit, unit: "bytes for a run" }.into());
            }
            Ok(())
        })
    }

    /// The content hash of an upload under way.
    fn upload(&self, target: &Target) -> Result<String> {
        let Target { owner, storage, version } = target.clone();
        self.db.read("find an upload", move |tx| {
            Ok(Upload::find(tx, [&owner, &storage, &version])?.content)
        })
    }

    /// Records the received blob. An upload whose attempt has ended meanwhile stays removed.
    /// Unreferenced content that was pruned meanwhile must be sent again, which the commit could
    /// not ask for.
    fn uploaded(
        &self,
        target: Target,
        kind: &'static str,
        digest: String,
        size: Option<u64>,
    ) -> Result<()> {
        let blobs = Arc::clone(self.store.files()?);
        self.db.write("record an upload", move |tx| {
            tx.lock_names(&[&digest])?;
            if !blobs.has(&digest) {
                return Err(Refusal::Busy.into());
            }
            let Target { owner, storage, version } = &target;
            let set = format!(
                "UPDATE uploads SET {kind} = ?4, archive_size = coalesce(?5, archive_size)
                 WHERE owner = ?1 AND storage = ?2 AND version = ?3"
            );
            match tx.execute(&set, &[owner, storage, version, &digest, &size])? {
                0 => Err(Refusal::Ended.into()),
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Principal;
    use crate::storage::{StorageRequest, Writer};
    use crate::{Config, Error};

    #[test]
    fn an_archive_that_was_pruned_before_it_is_recorded_must_be_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        let request =
            StorageRequest { storage_name: Some("work".into()), ..StorageRequest::default() };
        let prepared = backend.prepare(Writer::Principal(Principal::Host), request, "").unwrap();
        let target = Target {
            owner: "operator".into(),
            storage: prepared.storage_id,
            version: prepared.version_id,
        };
        let blobs = backend.store.files().unwrap();
        let blob = blobs.receive(&mut &b"archive"[..], 100, &mut |_| Ok(())).unwrap();
        let blob = blob.keep().unwrap();
        blobs.remove(&blob.digest).unwrap();

        let recorded = backend.uploaded(target, "archive", blob.digest, Some(blob.size));

        assert!(matches!(recorded, Err(Error::Refused(Refusal::Busy))));
    }
}
