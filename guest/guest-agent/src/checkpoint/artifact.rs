//! An artifact: packed, announced, uploaded if the platform does not have it, committed.

use std::fs::File;
use std::io::Seek as _;

use guest_common::{Client, Retry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::content_hash::{self, hex};
use super::pack::{Package, pack, write_manifest};
use super::{Checkpoint, Shape, Snapshot};
use crate::config::{Artifact, Kind, MissingRoot};
use crate::{Error, Result};

const PREPARE: &str = "/api/webhooks/agent/storages/prepare";
const COMMIT: &str = "/api/webhooks/agent/storages/commit";

/// Both calls: strict, so what is not there is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    run_id: &'a str,
    #[serde(flatten)]
    storage: Storage<'a>,
    files: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What is meant: by id, or in the older form by name and type.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Storage<'a> {
    #[serde(rename_all = "camelCase")]
    ById { storage_id: &'a str },
    #[serde(rename_all = "camelCase")]
    ByName { storage_name: &'a str, storage_type: &'static str },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prepared {
    version_id: String,
    existing: bool,
    uploads: Option<Uploads>,
}

#[derive(Deserialize)]
struct Uploads {
    archive: Place,
    manifest: Place,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    presigned_url: String,
}

#[derive(Deserialize)]
struct Committed {
    #[serde(rename = "versionId")]
    _version_id: String,
}

/// Keeps an artifact, which had the shape `before` when the run began.
pub(super) fn keep(
    checkpoint: &Checkpoint,
    index: usize,
    artifact: &Artifact,
    before: Option<&Shape>,
) -> Result<Snapshot> {
    let snapshot = |version| Snapshot {
        name: artifact.name.clone(),
        version,
        mount_path: artifact.mount_path.clone(),
    };
    if !artifact.mount_path.is_dir() {
        return missing(artifact).map(snapshot);
    }
    let package = checkpoint.timed("artifact_archive_create", || {
        let file = checkpoint.folder.scratch(&format!("archive-{index}"))?;
        let excluded = &checkpoint.config.excluded;
        pack(&artifact.mount_path, excluded, file, &checkpoint.stop)
    })?;
    let files: Vec<Value> = package
        .files
        .iter()
        .map(|file| json!({ "path": file.path, "hash": hex(&file.digest), "size": file.size }))
        .collect();
    let call = Call {
        run_id: &checkpoint.config.run_id,
        storage: storage(artifact),
        files: &files,
        parent_version_id: artifact.version_id.as_deref(),
        force: None,
        version_id: None,
        message: None,
    };
    let is_reshaped = before.is_some_and(|before| *before != package.shape);
    let prepared = prepare(checkpoint, &call, is_reshaped)?;
    compare(artifact, &package, &prepared);
    if !prepared.existing {
        let uploads = prepared.uploads.ok_or(Error::NoUpload { what: "an artifact" })?;
        let manifest = checkpoint.folder.scratch(&format!("manifest-{index}"))?;
        checkpoint.timed("artifact_s3_upload", || {
            let manifest = write_manifest(&files, manifest);
            let manifest = manifest.map_err(|source| Error::Archive { source })?;
            let client = checkpoint.uploader();
            let archive = (package.archive, package.archive_size);
            upload(&client, &uploads.archive.presigned_url, "application/gzip", archive)?;
            upload(&client, &uploads.manifest.presigned_url, "application/json", manifest)
        })?;
    }
    let message = || format!("Checkpoint from run {}", checkpoint.config.run_id);
    let commit = Call {
        version_id: Some(&prepared.version_id),
        message: (!prepared.existing).then(message),
        ..call
    };
    checkpoint.timed("artifact_commit_api", || {
        let Committed { .. } = checkpoint.post(COMMIT, &commit)?;
        Ok(())
    })?;
    Ok(snapshot(prepared.version_id))
}

/// The version of a mount that is gone.
fn missing(artifact: &Artifact) -> Result<String> {
    match (artifact.missing_root_policy, &artifact.version_id) {
        (MissingRoot::PreserveParentVersion, Some(parent)) => Ok(parent.clone()),
        _ => Err(Error::NoRoot { path: artifact.mount_path.clone() }),
    }
}

/// Announces a version; once more and with force if the platform has these files, but the shape of
/// the folder is another one than it was.
fn prepare(checkpoint: &Checkpoint, call: &Call<'_>, is_reshaped: bool) -> Result<Prepared> {
    checkpoint.timed("artifact_prepare_api", || {
        let prepared: Prepared = checkpoint.post(PREPARE, call)?;
        if !prepared.existing || !is_reshaped {
            return Ok(prepared);
        }
        let forced = Call { force: Some(true), message: None, ..*call };
        checkpoint.post(PREPARE, &forced)
    })
}

/// Uploads a file of this size, again from its beginning if that may help.
pub(super) fn upload(client: &Client, url: &str, kind: &str, file: (File, u64)) -> Result<()> {
    let (mut file, size) = file;
    Ok(Retry::through_outage().run(client.stop(), || {
        // A file can always be read from its beginning.
        let _ = file.rewind();
        client.put(url, kind, &file, size)
    })?)
}

fn storage(artifact: &Artifact) -> Storage<'_> {
    match (&artifact.storage_id, artifact.kind) {
        (Some(storage_id), _) => Storage::ById { storage_id },
        (None, Kind::Artifact) => {
            Storage::ByName { storage_name: &artifact.name, storage_type: "artifact" }
        }
        (None, Kind::Memory) => {
            Storage::ByName { storage_name: &artifact.name, storage_type: "memory" }
        }
    }
}

/// The version's id is a hash that we know, too. Another one is the platform's affair, but a sign.
fn compare(artifact: &Artifact, package: &Package, prepared: &Prepared) {
    let Some(storage_id) = &artifact.storage_id else { return };
    let expected = content_hash::of(storage_id, &package.files);
    if expected != prepared.version_id {
        log::debug!(
            "a version has an id of its own; expected={expected} got={}",
            prepared.version_id
        );
    }
}
