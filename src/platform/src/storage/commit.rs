//! The commit of an upload, which makes it a version.
//!
//! With files, the platform has received and checked the upload already. With a bucket, the store has it:
//!
//! 1. The names of the new objects are reserved.
//! 2. The archive is copied to its object, and the manifest is written from the committed list of files,
//!    whose content hash is the prepared one.
//! 3. The version takes over the names.
//!
//! A commit that ends between the steps leaves a reservation, which the timer gives up after a day, and
//! objects, which it removes then.

use std::sync::Arc;

use base::hex;
use http_server::Method;
use s3::Stat;

use super::upload::Manifest;
use super::{Committed, PartUploads, Parts, StorageRequest, Upload, UploadUrl, Writer, exists};
use crate::attempt::Caller;
use crate::backend::Backend;
use crate::clock::iso8601;
use crate::content_hash::content_hash;
use crate::db::{Outcome, ToValue, Tx};
use crate::store::{Objects, Store, Temporary, is_large, part_size, stage, staged, unstage};
use crate::{Refusal, Result};

/// The most versions that an attempt may have under upload: a store limits one upload to 5 GiB.
pub(super) const MOST_UPLOADS: usize = 64;

/// A checked request to commit.
struct Commit {
    writer: Writer,
    request: StorageRequest,
    version: String,
    is_masked: bool,
}

/// An upload that may become a version.
struct Ready {
    owner: String,
    storage: String,
    content: String,
    archive: (Option<String>, i64),
    manifest: Option<String>,
}

/// Where an archive is that is committed to a bucket.
enum Source {
    /// An upload by one request.
    Whole(Stat),
    /// An upload in parts, of this size together.
    Parts(Parts, u64),
}

/// What a version consists of.
struct Stored<'a> {
    archive: &'a str,
    size: u64,
    manifest: &'a str,
}

impl Backend {
    /// Makes an upload a version.
    pub(crate) fn commit(&self, writer: Writer, mut request: StorageRequest) -> Result<Committed> {
        let mut is_masked = false;
        if let Writer::Guest(_, run) = &writer
            && let Some(mask) = self.secrets.mask(run)?
        {
            is_masked = true;
            let texts = request.message.iter_mut().chain(&mut request.parent_version_id);
            texts.for_each(|text| mask.text(text));
        }
        let version = request.version_id.clone();
        let version = version.ok_or_else(|| Refusal::bad("`versionId` is missing"))?;
        if hex::decode::<32>(&version).is_none() {
            return Err(Refusal::Missing { what: "archive and manifest" }.into());
        }
        check_names(&request)?;
        let commit = Commit { writer, request, version: version.clone(), is_masked };
        match &self.store {
            Store::Files(blobs) => {
                let blobs = Arc::clone(blobs);
                self.db.write("commit a version", move |tx| {
                    let Some(ready) = commit.ready(tx)? else { return Ok(()) };
                    let (archive, size) = &ready.archive;
                    let missing = |what| Refusal::Missing { what };
                    let archive = archive.as_deref().ok_or_else(|| missing("archive"))?;
                    let manifest = ready.manifest.as_deref().ok_or_else(|| missing("manifest"))?;
                    tx.lock_names(&[archive, manifest])?;
                    // A prune may have removed it since the upload. From here on it is referenced.
                    if !blobs.has(archive) || !blobs.has(manifest) {
                        return Err(missing("archive and manifest").into());
                    }
                    let size = u64::try_from(*size).unwrap_or_default();
                    commit.insert(tx, &ready, &Stored { archive, size, manifest })
                })?;
            }
            Store::Bucket(objects) => self.commit_objects(objects, commit)?,
        }
        Ok(Committed { success: true, version_id: version })
    }

    fn commit_objects(&self, objects: &Objects, commit: Commit) -> Result<()> {
        let commit = Arc::new(commit);
        let looking = Arc::clone(&commit);
        let found = self.db.write("find an upload", move |tx| looking.ready(tx))?;
        let Some(ready) = found else { return Ok(()) };
        let [from, list] = ["archive", "manifest"].map(|kind| ready.upload(kind, &commit.version));
        // Before anything is reserved: a guest may ask for ever.
        let source = self.source(objects, &commit.request, (&ready.owner, &from))?;
        if objects.uploaded(&list)?.is_none() {
            return Err(Refusal::Missing { what: "manifest" }.into());
        }
        // 1
        let digest = commit.request.archive_hash.as_deref();
        let (archive, is_reserved) = match &source {
            Source::Parts(parts, _) => (parts.name.clone(), true),
            Source::Whole(_) => (Objects::name(digest), false),
        };
        let manifest = Objects::name(None);
        let names = [archive.clone(), manifest.clone()];
        self.db.write("reserve names", move |tx| reserve(tx, &names, is_reserved))?;
        // 2
        let size = match &source {
            Source::Whole(stat) => {
                objects.adopt(&from, stat, &archive)?;
                stat.size
            }
            Source::Parts(parts, size) => {
                if !objects.complete(&parts.name, &parts.upload, *size)? {
                    return Err(Refusal::Missing { what: "all parts of the archive" }.into());
                }
                *size
            }
        };
        let files = commit.request.files.clone();
        let listed = Manifest { version: 1, files, created_at: iso8601(self.db.now()) };
        let listed =
            serde_json::to_vec(&listed).map_err(|error| Refusal::bad(error.to_string()))?;
        objects.put(&manifest, &listed)?;
        // 3
        self.db.write("commit a version", move |tx| {
            // Not there any more: another commit of the same upload was faster, or this one was done
            // already and its reply was lost.
            let Some(ready) = commit.ready(tx)? else { return Ok(()) };
            unstage(tx, &archive)?;
            unstage(tx, &manifest)?;
            let stored = Stored { archive: &archive, size, manifest: &manifest };
            commit.insert(tx, &ready, &stored)
        })?;
        objects.discard(&from);
        objects.discard(&list);
        Ok(())
    }

    /// Where the archive is, if it may be committed.
    fn source(
        &self,
        objects: &Objects,
        request: &StorageRequest,
        (owner, from): (&str, &Temporary),
    ) -> Result<Source> {
        if let Some(parts) = request.parts.clone() {
            let size = request.archive_size;
            let size = size.ok_or_else(|| Refusal::bad("`archiveSize` is missing"))?;
            self.check_archive(size)?;
            return Ok(Source::Parts(parts, size));
        }
        let stat = objects.uploaded(from)?.ok_or(Refusal::Missing { what: "archive" })?;
        self.check_archive(stat.size)?;
        self.charge_upload(owner, stat.size)?;
        Ok(Source::Whole(stat))
    }

    pub(super) fn check_archive(&self, size: u64) -> Result<(), Refusal> {
        let limit = self.config.largest_archive;
        match size {
            0 => Err(Refusal::bad("the archive is empty")),
            size if size > limit => Err(Refusal::TooLarge { limit, unit: "bytes" }),
            _ => Ok(()),
        }
    }

    /// The URL, or those of the parts, for an upload of a version. `large` is the name of an object that is
    /// uploaded in parts.
    pub(super) fn upload_url(
        &self,
        base: &str,
        (kind, owner, storage, version): (&'static str, &str, &str, &str),
        large: Option<(&str, u64)>,
    ) -> Result<UploadUrl> {
        let objects = match &self.store {
            Store::Files(_) => {
                let path = format!("/uploads/{kind}/{storage}/{version}?owner={owner}");
                return Ok(UploadUrl::one(self.url(base, Method::Put, &path)));
            }
            Store::Bucket(objects) => objects,
        };
        let Some((name, size)) = large else {
            let (owner, storage, version) = (owner.into(), storage.into(), version.into());
            let to = Temporary::Version { owner, kind, storage, version };
            return Ok(UploadUrl::one(objects.upload_url(&to, None)));
        };
        let part_size = part_size(size);
        let (upload, urls) = objects.begin(name, size.div_ceil(part_size))?;
        let parts = Parts { name: name.to_owned(), upload };
        Ok(UploadUrl {
            presigned_url: String::new(),
            parts: Some(PartUploads { parts, part_size, urls }),
        })
    }

    /// The name and the size of an operator's archive that is uploaded in parts.
    pub(super) fn large(&self, request: &StorageRequest) -> Option<(String, u64)> {
        let size = request.archive_size.filter(|size| is_large(*size))?;
        let is_bucket = matches!(self.store, Store::Bucket(_));
        is_bucket.then(|| (Objects::name(request.archive_hash.as_deref()), size))
    }
}

/// Reserves the names of an archive and its manifest. That of an upload in parts was reserved when it was
/// prepared.
fn reserve(tx: &Tx<'_>, [archive, manifest]: &[String; 2], is_reserved: bool) -> Outcome<()> {
    if !is_reserved {
        stage(tx, archive)?;
    } else if !staged(tx, archive)? {
        return Err(Refusal::Missing { what: "archive" }.into());
    }
    stage(tx, manifest)
}

/// Rejects names that do not belong into a key.
pub(super) fn check_names(request: &StorageRequest) -> Result<(), Refusal> {
    if request.archive_hash.as_ref().is_some_and(|hash| hex::decode::<32>(hash).is_none()) {
        return Err(Refusal::bad("`archiveHash` is not 64 lower-case hex digits"));
    }
    let is_good = |c: char| c.is_ascii_hexdigit() || c == '-';
    if request.parts.as_ref().is_some_and(|parts| !parts.name.chars().all(is_good)) {
        return Err(Refusal::bad("`parts` does not name an upload"));
    }
    Ok(())
}

impl Ready {
    fn upload(&self, kind: &'static str, version: &str) -> Temporary {
        let (owner, storage) = (self.owner.clone(), self.storage.clone());
        Temporary::Version { owner, kind, storage, version: version.to_owned() }
    }
}

impl Commit {
    /// The upload, if the writer may commit it; `None` if the version exists.
    fn ready(&self, tx: &Tx<'_>) -> Outcome<Option<Ready>> {
        let owner = self.writer.authorize(tx)?;
        if let Writer::Guest(token, run) = &self.writer {
            Caller::live(tx, token, run)?.check_masked(self.is_masked)?;
        }
        let storage = self.writer.storage(tx, &self.request)?;
        let content = content_hash(&storage, &self.request.files)?;
        if exists(tx, &storage, &self.version)? {
            return Ok(None);
        }
        let upload = Upload::find(tx, [&owner, &storage, &self.version])?;
        if upload.content != content {
            return Err(Refusal::WrongHash.into());
        }
        let Upload { archive, manifest, .. } = upload;
        Ok(Some(Ready { owner, storage, content, archive, manifest }))
    }

    fn insert(&self, tx: &Tx<'_>, ready: &Ready, stored: &Stored<'_>) -> Outcome<()> {
        let Ready { owner, storage, content, .. } = ready;
        let add = "INSERT INTO versions (storage, version, content, archive, archive_size,
                       manifest, files, parent, message, created)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let row: [&dyn ToValue; 10] = [
            storage,
            &self.version,
            content,
            &stored.archive,
            &stored.size,
            &stored.manifest,
            &self.request.files.len(),
            &self.request.parent_version_id,
            &self.request.message,
            &tx.now(),
        ];
        tx.execute(add, &row)?;
        let done = "DELETE FROM uploads WHERE owner = ?1 AND storage = ?2 AND version = ?3";
        tx.execute(done, &[owner, storage, &self.version])?;
        Ok(())
    }
}
