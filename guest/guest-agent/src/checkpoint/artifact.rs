//! Saves an artifact: packs it, announces it, uploads it unless the platform has it, commits it.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use archive::PackedFile;
use base::thread;
use platform_client::{HttpClient, RetryPolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pack::{Archive, Package, Source, Unreadable, manifest, pack, package};
use super::{Checkpoint, Shape, Snapshot, joined};
use crate::config::{Artifact, MissingRoot, StorageType};
use crate::{Error, Result};
use base::hex;

const PREPARE: &str = "/api/webhooks/agent/storages/prepare";
const COMMIT: &str = "/api/webhooks/agent/storages/commit";

/// The body of the prepare and commit calls. The platform validates strictly: absent fields are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StorageRequest<'a> {
    run_id: &'a str,
    #[serde(flatten)]
    storage: StorageRef<'a>,
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

/// Identifies a storage: by id, or in the older form by name and type.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum StorageRef<'a> {
    #[serde(rename_all = "camelCase")]
    ById { storage_id: &'a str },
    #[serde(rename_all = "camelCase")]
    ByName { storage_name: &'a str, storage_type: &'static str },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrepareReply {
    version_id: String,
    existing: bool,
    uploads: Option<Uploads>,
}

#[derive(Deserialize)]
struct Uploads {
    archive: Upload,
    manifest: Upload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upload {
    presigned_url: String,
}

#[derive(Deserialize)]
struct CommitReply {
    #[serde(rename = "versionId")]
    _version_id: String,
}

/// A saved artifact, and the warnings for the job's user.
pub(super) struct SavedArtifact {
    pub(super) snapshot: Snapshot,
    pub(super) warnings: Vec<String>,
}

/// Saves an artifact, which had the shape `before` when the run began.
pub(super) fn save(
    checkpoint: &Checkpoint,
    index: usize,
    artifact: &Artifact,
    before: Option<&Shape>,
) -> Result<SavedArtifact> {
    let (root, preserved, mut warnings) = find(artifact);
    if let Some(version) = preserved {
        return Ok(SavedArtifact { snapshot: snapshot(artifact, version), warnings });
    }
    let source = Source { root, excluded: &checkpoint.config.excluded, stop: &checkpoint.stop };
    let package = checkpoint.timed("artifact_archive_create", || {
        package(&source, || checkpoint.folder.scratch(&format!("archive-{index}")))
    })?;
    warnings.extend(package.contents.omissions.warnings(&artifact.name));
    let version = store(checkpoint, artifact, &source, package, before)?;
    Ok(SavedArtifact { snapshot: snapshot(artifact, version), warnings })
}

/// The folder of an artifact. If it does not exist, the version to preserve; without one, the artifact
/// is saved as empty, with a warning.
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
    (None, None, vec![format!("artifact {name}: saved as empty: {path} is no longer a folder")])
}

fn snapshot(artifact: &Artifact, version: String) -> Snapshot {
    let (name, mount_path) = (artifact.name.clone(), artifact.mount_path.clone());
    Snapshot { name, version, mount_path }
}

/// Announces, uploads and commits a package. Returns its version.
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
        .map(|file| json!({ "path": file.path, "hash": hex::encode(&file.digest), "size": file.size }))
        .collect();
    let call = StorageRequest {
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
    let commit = StorageRequest {
        version_id: Some(&prepared.version_id),
        message: (!prepared.existing).then(message),
        ..call
    };
    checkpoint.timed("artifact_commit_api", || {
        let CommitReply { .. } = checkpoint.post(COMMIT, &commit)?;
        Ok(())
    })?;
    Ok(prepared.version_id)
}

/// Announces a version. If the platform has a version with these files but the folder's shape has
/// changed, announces it again with `force`.
fn prepare(
    checkpoint: &Checkpoint,
    call: &StorageRequest<'_>,
    is_reshaped: bool,
) -> Result<PrepareReply> {
    checkpoint.timed("artifact_prepare_api", || {
        let prepared: PrepareReply = checkpoint.post(PREPARE, call)?;
        if !prepared.existing || !is_reshaped {
            return Ok(prepared);
        }
        let forced = StorageRequest { force: Some(true), message: None, ..*call };
        checkpoint.post(PREPARE, &forced)
    })
}

const ARCHIVE: &str = "application/gzip";

/// Uploads an archive. Packs it while it is sent if the disk had no room for it.
fn send(client: &HttpClient, url: &str, source: &Source<'_>, package: Package) -> Result<()> {
    match package.archive {
        Archive::File(file) => upload(client, url, ARCHIVE, (file, package.size)),
        Archive::Repack(unreadable) => RetryPolicy::through_outage().run(client.stop(), || {
            let sent = stream(client, url, (source, &unreadable), package.size);
            // The archive must hold the announced files. A difference is not worth a retry.
            Ok(sent?.and_then(|files| {
                if files == package.contents.files { Ok(()) } else { Err(changed(source)) }
            }))
        })?,
    }
}

/// Packs into a pipe and uploads from it. Returns the files that were packed.
fn stream(
    client: &HttpClient,
    url: &str,
    (source, unreadable): (&Source<'_>, &Unreadable),
    size: u64,
) -> platform_client::Result<Result<Vec<PackedFile>>> {
    let (reader, writer) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(source) => return Ok(Err(Error::Archive { source })),
    };
    std::thread::scope(|scope| {
        let work = move || pack(source, unreadable, writer);
        let packing = match thread::spawn_scoped(scope, "pack", work) {
            Ok(packing) => packing,
            Err(source) => return Ok(Err(Error::Thread { name: "pack", source })),
        };
        let reader = File::from(OwnedFd::from(reader));
        let sent = client.put(url, ARCHIVE, &reader, size);
        // Closing the pipe ends a packer that blocks on it.
        drop(reader);
        let packed = joined("pack", packing).and_then(|packed| packed);
        sent.map(|()| packed.map(|(contents, _)| contents.files))
    })
}

fn changed(source: &Source<'_>) -> Error {
    let path = source.root.unwrap_or(Path::new("")).to_owned();
    Error::ReadFile { path, source: io::Error::other("it changed while it was uploaded") }
}

/// Uploads a file of this size. Each retry starts at the file's beginning.
pub(super) fn upload(client: &HttpClient, url: &str, kind: &str, file: (File, u64)) -> Result<()> {
    let (mut file, size) = file;
    Ok(RetryPolicy::through_outage().run(client.stop(), || {
        // Seeking in a regular file cannot fail.
        let _ = file.rewind();
        client.put(url, kind, &file, size)
    })?)
}

fn storage(artifact: &Artifact) -> StorageRef<'_> {
    match (&artifact.storage_id, artifact.kind) {
        (Some(storage_id), _) => StorageRef::ById { storage_id },
        (None, StorageType::Artifact) => {
            StorageRef::ByName { storage_name: &artifact.name, storage_type: "artifact" }
        }
        (None, StorageType::Memory) => {
            StorageRef::ByName { storage_name: &artifact.name, storage_type: "memory" }
        }
    }
}

/// Logs if the version's id is not the content hash that the contract defines.
fn compare(artifact: &Artifact, package: &Package, prepared: &PrepareReply) {
    let Some(storage_id) = &artifact.storage_id else { return };
    let files = package.contents.files.iter().map(|file| (file.path.as_str(), file.digest));
    let expected = archive::content_hash(storage_id, files);
    if expected != prepared.version_id {
        log::debug!(
            "a version's id is not its content hash; expected={expected} got={}",
            prepared.version_id
        );
    }
}
