//! Storages and their versions: prepared, uploaded, committed.
//!
//! ```text
//!   prepare ──▶ uploads row ──PUT archive, PUT manifest──▶ commit ──▶ versions row
//!      └─ the version exists: nothing to do   (a row per PUT only with files: see `store.rs`)
//! ```
//!
//! INVARIANT: a version's archive and manifest exist as long as the version.

mod commit;
mod upload;

use base::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub(crate) use self::upload::{LARGEST_LIST, Manifest, Target, length};
use crate::attempt::Caller;
use crate::backend::Backend;
use crate::bounded::list;
use crate::content_hash::{FileEntry, MOST_FILES, content_hash};
use crate::db::{Outcome, ToValue, Tx};
use crate::key::Tag;
use crate::principal::Principal;
use crate::store::stage;
use crate::{Error, Refusal, Result, RunId};

/// The client that prepares and commits.
#[derive(Debug, Clone)]
pub(crate) enum Writer {
    /// A guest, by its token: only artifacts of its job.
    Guest(Tag, RunId),
    /// An operator: any storage. A submitter: those of its own names. A missing one is created.
    Principal(Principal),
}

/// The storage, by id or by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct StorageRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version_id: Option<String>,
    #[serde(deserialize_with = "list::<_, _, MOST_FILES>")]
    pub(crate) files: Vec<FileEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent_version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// SHA-256 of the archive; only the operator sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) archive_hash: Option<String>,
    /// The archive's bytes; only the operator sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) archive_size: Option<u64>,
    /// What was uploaded in parts; only the operator sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parts: Option<Parts>,
}

/// The reply to a prepare.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Prepared {
    /// The id of the named storage, for the operator.
    #[serde(default)]
    pub(crate) storage_id: String,
    pub(crate) version_id: String,
    pub(crate) existing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uploads: Option<Uploads>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Uploads {
    pub(crate) archive: UploadUrl,
    pub(crate) manifest: UploadUrl,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UploadUrl {
    /// Empty if there are parts.
    pub(crate) presigned_url: String,
    /// A large archive of the operator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) parts: Option<PartUploads>,
}

impl UploadUrl {
    fn one(presigned_url: String) -> Self {
        Self { presigned_url, parts: None }
    }
}

/// An upload in parts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartUploads {
    pub(crate) parts: Parts,
    /// The bytes of all parts but the last.
    pub(crate) part_size: u64,
    pub(crate) urls: Vec<String>,
}

/// The object that an upload in parts makes, and the upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) upload: String,
}

/// The reply to a commit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Committed {
    pub(crate) success: bool,
    pub(crate) version_id: String,
}

impl Backend {
    /// Returns the version for a list of files, and URLs to upload it.
    pub(crate) fn prepare(
        &self,
        writer: Writer,
        request: StorageRequest,
        base: &str,
    ) -> Result<Prepared> {
        commit::check_names(&request)?;
        let large = self.large(&request);
        let reserved = large.clone();
        let is_bucket = self.store.origin().is_some();
        let (owner, storage, version, existing) =
            self.db.write("prepare a version", move |tx| {
                let owner = writer.authorize(tx)?;
                let storage = writer.storage(tx, &request)?;
                let content = content_hash(&storage, &request.files)?;
                let version = match writer.mounted(tx, &storage, &content)? {
                    Some(mounted) if request.force != Some(true) => mounted,
                    _ => name(tx, &storage, &content, &owner, &request)?,
                };
                let existing = exists(tx, &storage, &version)?;
                if !existing {
                    if is_bucket && writer.is_guest() {
                        check_number(tx, &owner)?;
                    }
                    if let Some((name, _)) = &reserved {
                        stage(tx, name)?;
                    }
                    let add = "INSERT INTO uploads (owner, storage, version, content, created)
                               VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
                    tx.execute(add, &[&owner, &storage, &version, &content, &tx.now()])?;
                }
                Ok((owner, storage, version, existing))
            })?;
        let large = large.as_ref().map(|(name, size)| (name.as_str(), *size));
        let uploads = || {
            let archive = ("archive", owner.as_str(), storage.as_str(), version.as_str());
            let manifest = ("manifest", archive.1, archive.2, archive.3);
            Ok::<_, Error>(Uploads {
                archive: self.upload_url(base, archive, large)?,
                manifest: self.upload_url(base, manifest, None)?,
            })
        };
        let uploads = (!existing).then(uploads).transpose()?;
        Ok(Prepared { storage_id: storage, version_id: version, existing, uploads })
    }
}

impl Writer {
    fn is_guest(&self) -> bool {
        matches!(self, Self::Guest(..))
    }

    /// Authorizes the writer, and returns the owner of its uploads.
    fn authorize(&self, tx: &Tx<'_>) -> Outcome<String> {
        match self {
            Self::Principal(principal) => Ok(match principal.submitter() {
                Some(submitter) => format!("submitter:{submitter}"),
                None => "operator".to_owned(),
            }),
            Self::Guest(token, run) => {
                Ok(format!("{run}/{}", Caller::live(tx, token, run)?.attempt))
            }
        }
    }

    /// The version that the guest was given, if it has these files. Its name may differ from the
    /// content hash, whose version may have other modes.
    fn mounted(&self, tx: &Tx<'_>, storage: &str, content: &str) -> Outcome<Option<String>> {
        let Self::Guest(_, run) = self else { return Ok(None) };
        let query = "SELECT m.version FROM mounts AS m JOIN jobs ON jobs.id = m.job
                     JOIN versions AS v ON v.storage = m.storage AND v.version = m.version
                     WHERE run = ?1 AND m.storage = ?2 AND content = ?3";
        tx.query_opt(query, &[run, &storage, &content], |row| row.get(0))
    }

    fn storage(&self, tx: &Tx<'_>, request: &StorageRequest) -> Outcome<String> {
        let (id, name) = (request.storage_id.as_deref(), request.storage_name.as_deref());
        let run = match self {
            Self::Guest(_, run) => run,
            Self::Principal(principal) => {
                let name = name.ok_or_else(|| Refusal::bad("`storageName` is missing"))?;
                return find_or_make(tx, &principal.scoped(name));
            }
        };
        let text = id.or(name);
        let text = text.ok_or_else(|| Refusal::bad("neither `storageId` nor `storageName`"))?;
        if request.storage_type.as_deref().is_some_and(|kind| kind != "artifact") {
            return Err(Refusal::NotWritable { storage: text.to_owned() }.into());
        }
        // The guest's text is no parameter: a database may log those, and it may be a secret.
        let query = "SELECT storage, name FROM mounts JOIN jobs ON jobs.id = job WHERE run = ?1";
        let all: Vec<(String, String)> =
            tx.query_all(query, &[run], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let is_meant = |(storage, name): &(String, String)| match id {
            Some(id) => storage == id,
            None => name == text,
        };
        let found = all.into_iter().find(is_meant).map(|(storage, _)| storage);
        found.ok_or_else(|| Refusal::NotWritable { storage: text.to_owned() }.into())
    }
}

fn find_or_make(tx: &Tx<'_>, name: &str) -> Outcome<String> {
    if name.is_empty() || name.len() > 255 {
        return Err(Refusal::bad("a storage's name must have 1 to 255 bytes").into());
    }
    let add = "INSERT INTO storages (id, name, created) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    tx.execute(add, &[&Uuid::new_v4(), &name, &tx.now()])?;
    let query = "SELECT id FROM storages WHERE name = ?1";
    tx.query_one(query, &[&name], |row| row.get(0))
}

/// The content hash; or another name if the version of that name differs only in links, empty
/// folders or modes.
fn name(
    tx: &Tx<'_>,
    storage: &str,
    content: &str,
    owner: &str,
    request: &StorageRequest,
) -> Outcome<String> {
    let query = "SELECT archive FROM versions WHERE storage = ?1 AND version = ?2";
    let plain: Option<String> = tx.query_opt(query, &[&storage, &content], |row| row.get(0))?;
    let apart = match (&request.archive_hash, plain) {
        // An object's name begins with the digest.
        (Some(hash), Some(plain)) if !plain.starts_with(hash) => hash.as_str(),
        (None, _) if request.force == Some(true) => owner,
        _ => return Ok(content.to_owned()),
    };
    let digest = Sha256::new().chain_update("version\0").chain_update(content);
    Ok(hex::encode(&digest.chain_update(apart).finalize()))
}

/// Rejects more uploads of an attempt at once than the bucket should hold.
fn check_number(tx: &Tx<'_>, owner: &str) -> Outcome<()> {
    let query = "SELECT count(*) FROM uploads WHERE owner = ?1";
    let count: u64 = tx.query_one(query, &[&owner], |row| row.get(0))?;
    let limit = commit::MOST_UPLOADS as u64;
    if count >= limit {
        return Err(Refusal::TooLarge { limit, unit: "versions under upload" }.into());
    }
    Ok(())
}

fn exists(tx: &Tx<'_>, storage: &str, version: &str) -> Outcome<bool> {
    let query = "SELECT 1 FROM versions WHERE storage = ?1 AND version = ?2";
    tx.exists(query, &[&storage, &version])
}

/// A version under upload.
pub(crate) struct Upload {
    pub(crate) content: String,
    archive: (Option<String>, i64),
    manifest: Option<String>,
}

impl Upload {
    /// The key: owner, storage and version.
    pub(crate) fn find(tx: &Tx<'_>, key: [&dyn ToValue; 3]) -> Outcome<Self> {
        let query = "SELECT content, archive, coalesce(archive_size, 0), manifest FROM uploads
                     WHERE owner = ?1 AND storage = ?2 AND version = ?3";
        let found = tx.query_opt(query, &key, |row| {
            let archive = (row.get(1)?, row.get(2)?);
            Ok(Self { content: row.get(0)?, archive, manifest: row.get(3)? })
        })?;
        found.ok_or_else(|| Refusal::Missing { what: "archive and manifest" }.into())
    }
}
