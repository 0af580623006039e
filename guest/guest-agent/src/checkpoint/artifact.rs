//! An artifact: packed, announced, uploaded if the platform does not have it, committed.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::{self, Builder};

use guest_common::{Client, Retry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::content_hash::{self, hex};
use super::pack::{Archive, Damaged, Package, Packed, Source, manifest, pack, package};
use super::{Checkpoint, Shape, Snapshot, joined};
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

/// An artifact that was kept, and what the job's user should know of it.
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    pub(super) warnings: Vec<String>,
}

/// Keeps an artifact, which had the shape `before` when the run began.
pub(super) fn keep(
    checkpoint: &Checkpoint,
    index: usize,
    artifact: &Artifact,
    before: Option<&Shape>,
) -> Result<Kept> {
    let (root, preserved, mut warnings) = find(artifact);
    if let Some(version) = preserved {
        return Ok(Kept { snapshot: snapshot(artifact, version), warnings });
    }
    let source = Source { root, excluded: &checkpoint.config.excluded, stop: &checkpoint.stop };
    let package = checkpoint.timed("artifact_archive_create", || {
        package(&source, || checkpoint.folder.scratch(&format!("archive-{index}")))
    })?;
    warnings.extend(package.contents.gaps.warnings(&artifact.name));
    let version = store(checkpoint, artifact, &source, package, before)?;
    Ok(Kept { snapshot: snapshot(artifact, version), warnings })
}

/// The folder of an artifact. If there is none, the version that is preserved for it, or else nothing:
/// an artifact with nothing in it, which is said.
fn find(artifact: &Artifact) -> (Option<&Path>, Option<String>, Vec<String>) {
    let root = artifact.mount_path.as_path();
    if root.is_dir() {
        return (Some(root), None, Vec::new());
    }
    if artifact.missing_root_policy == MissingRoot::PreserveParentVersion
        && let Some(parent) = &artifact.version_id
    {
        return (None, Some(parent.clone()), Vec::new());
    }
    let (name, path) = (&artifact.name, root.display());
    (None, None, vec![format!("artifact {name}: nothing is kept: {path} is no folder any more")])
}

fn snapshot(artifact: &Artifact, version: String) -> Snapshot {
    let (name, mount_path) = (artifact.name.clone(), artifact.mount_path.clone());
    Snapshot { name, version, mount_path }
}

/// Announces, uploads and commits what was packed; returns its version.
fn store(
    checkpoint: &Checkpoint,
    artifact: &Artifact,
    source: &Source<'_>,
    package: Package,
    before: Option<&Shape>,
) -> Result<String> {
    let files: Vec<Value> = package
        .contents
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
    let is_reshaped = before.is_some_and(|before| *before != package.contents.shape);
    let prepared = prepare(checkpoint, &call, is_reshaped)?;
    compare(artifact, &package, &prepared);
    if !prepared.existing {
        let uploads = prepared.uploads.ok_or(Error::NoUpload { what: "an artifact" })?;
        checkpoint.timed("artifact_s3_upload", || {
            let manifest = manifest(&files).map_err(|source| Error::Archive { source })?;
            let client = checkpoint.uploader();
            send(&client, &uploads.archive.presigned_url, source, package)?;
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
    Ok(prepared.version_id)
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

const ARCHIVE: &str = "application/gzip";

/// Uploads an archive, packing it meanwhile if there was no room for it.
fn send(client: &Client, url: &str, source: &Source<'_>, package: Package) -> Result<()> {
    match package.archive {
        Archive::File(file) => upload(client, url, ARCHIVE, (file, package.size)),
        Archive::Again(damaged) => Retry::through_outage().run(client.stop(), || {
            let sent = stream(client, url, (source, &damaged), package.size);
            // What was packed must be what was announced. If not, that is no fault to try again.
            Ok(sent?.and_then(|files| match files == package.contents.files {
                true => Ok(()),
                false => Err(changed(source)),
            }))
        })?,
    }
}

/// Packs into a pipe what is sent from it; returns which files that were.
fn stream(
    client: &Client,
    url: &str,
    (source, damaged): (&Source<'_>, &Damaged),
    size: u64,
) -> guest_common::Result<Result<Vec<Packed>>> {
    let (reader, writer) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(source) => return Ok(Err(Error::Archive { source })),
    };
    thread::scope(|scope| {
        let work = move || pack(source, damaged, writer);
        let packing = match Builder::new().name("pack".into()).spawn_scoped(scope, work) {
            Ok(packing) => packing,
            Err(source) => return Ok(Err(Error::Thread { name: "pack", source })),
        };
        let reader = File::from(OwnedFd::from(reader));
        let sent = client.put(url, ARCHIVE, &reader, size);
        // A packer that waits for a reader ends with it.
        drop(reader);
        let packed = joined("pack", packing).and_then(|packed| packed);
        sent.map(|()| packed.map(|(contents, _)| contents.files))
    })
}

fn changed(source: &Source<'_>) -> Error {
    let path = source.root.unwrap_or(Path::new("")).to_owned();
    Error::Keep { path, source: io::Error::other("it changed while it was sent") }
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
    let expected = content_hash::of(storage_id, &package.contents.files);
    if expected != prepared.version_id {
        log::debug!(
            "a version has an id of its own; expected={expected} got={}",
            prepared.version_id
        );
    }
}
