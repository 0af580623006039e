//! The manifest: what was written, in its older and newer form, and what it means.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::instruction::Name;
use crate::{Error, Result};

/// What is to be done.
#[derive(Debug)]
pub struct Manifest {
    pub(crate) tasks: Vec<Task>,
    /// What is to be removed first.
    pub(crate) cleanup: Vec<PathBuf>,
    /// What stays where it is, though it be below a path that is to be removed.
    pub(crate) kept: Vec<PathBuf>,
    pub(crate) instruction_cleanup: Vec<(PathBuf, Vec<Name>)>,
}

/// An archive to be unpacked, or a folder to be there.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    pub(crate) mount: PathBuf,
    /// Where the archive is unpacked: mostly the mount itself.
    pub(crate) target: PathBuf,
    /// A secret. Without one the folder only has to be there.
    pub(crate) url: Option<String>,
    pub(crate) instruction: Option<Name>,
}

/// What an archive that does not exist means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A failure.
    Storage,
    /// The first run: there is nothing yet.
    Artifact,
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let typed: Typed =
            serde_json::from_slice(json).map_err(|source| Error::Manifest { source })?;
        let storages = typed.storages.into_iter().flatten().map(|entry| (Kind::Storage, entry));
        let mounts = typed.storage_mounts.into_iter().flatten().map(|entry| {
            (if entry.writeback == Some(true) { Kind::Artifact } else { Kind::Storage }, entry)
        });
        let artifacts = typed.artifacts.into_iter().flatten();
        let artifacts = artifacts.chain(typed.artifact).chain(typed.memory);
        let artifacts = artifacts.map(|entry| (Kind::Artifact, entry));

        let (mut tasks, mut kept) = (Vec::new(), Vec::new());
        for (kind, entry) in storages.chain(mounts).chain(artifacts) {
            let mount = checked(entry.mount_path)?;
            let url = entry.archive_url.filter(|url| !url.is_empty() && url != "null");
            let instruction = entry.instructions_target_filename.as_deref().and_then(Name::parse);
            if entry.cached == Some(true) && url.is_none() {
                kept.push(mount.clone());
                if instruction.is_none() {
                    continue;
                }
            }
            let target = match entry.extract_path {
                Some(path) if url.is_some() => checked(path)?,
                _ => mount.clone(),
            };
            tasks.push(Task { kind, mount, target, url, instruction });
        }
        let cleanup =
            typed.cleanup_paths.into_iter().flatten().map(checked).collect::<Result<_>>()?;
        let cleanups = typed.instruction_cleanups.into_iter().flatten();
        let instruction_cleanup = cleanups
            .map(|cleanup| Ok((checked(cleanup.mount_path)?, Name::which(cleanup.target_filename))))
            .collect::<Result<_>>()?;
        Ok(Self { tasks, cleanup, kept, instruction_cleanup })
    }
}

impl Task {
    /// What it is called among a run's operations.
    pub(crate) fn action(&self) -> &'static str {
        match self.kind {
            Kind::Storage => "storage_download",
            Kind::Artifact => "artifact_download",
        }
    }

    /// The paths that it changes.
    pub(crate) fn paths(&self) -> HashSet<PathBuf> {
        [&self.mount, &self.target].into_iter().map(|path| resolved(path)).collect()
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Storage { "storage" } else { "artifact" };
        write!(f, "{kind} at {}", self.mount.display())
    }
}

/// The manifest as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    storages: Option<Vec<Entry>>,
    storage_mounts: Option<Vec<Entry>>,
    artifacts: Option<Vec<Entry>>,
    artifact: Option<Entry>,
    memory: Option<Entry>,
    cleanup_paths: Option<Vec<PathBuf>>,
    instruction_cleanups: Option<Vec<InstructionCleanup>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    mount_path: PathBuf,
    archive_url: Option<String>,
    cached: Option<bool>,
    writeback: Option<bool>,
    extract_path: Option<PathBuf>,
    instructions_target_filename: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstructionCleanup {
    mount_path: PathBuf,
    target_filename: Option<String>,
}

/// The path without `.` and doubled slashes; an error if it is relative, `/`, or leads upwards.
fn checked(path: PathBuf) -> Result<PathBuf> {
    let clean: PathBuf = path.components().collect();
    let climbs = clean.components().any(|part| part == Component::ParentDir);
    if climbs || !clean.is_absolute() || clean.parent().is_none() {
        return Err(Error::ManifestPath { path });
    }
    Ok(clean)
}

/// The path with the links of the part that exists followed, so that two names of one folder are
/// seen as equal.
fn resolved(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    match known {
        Some((part, real)) => real.join(path.strip_prefix(part).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_manifest_are_read() {
        let older = br#"{"storages":[{"mountPath":"/a/./b","archiveUrl":"http://x"}],
            "artifact":{"mountPath":"/c","archiveUrl":"http://y"},"memory":null}"#;
        let newer = br#"{"storageMounts":[{"mountPath":"/a/b","archiveUrl":"http://x"},
            {"mountPath":"/c","archiveUrl":"http://y","writeback":true}]}"#;
        for manifest in [&older[..], newer] {
            let tasks = Manifest::parse(manifest).unwrap().tasks;
            assert_eq!(
                (tasks[0].kind, tasks[0].mount.as_path()),
                (Kind::Storage, Path::new("/a/b"))
            );
            assert_eq!(
                (tasks[1].kind, tasks[1].mount.as_path()),
                (Kind::Artifact, Path::new("/c"))
            );
        }
    }

    #[test]
    fn the_word_null_is_no_url_and_what_is_cached_is_no_task() {
        let manifest = br#"{"storages":[{"mountPath":"/a","archiveUrl":"null"},
            {"mountPath":"/b","archiveUrl":null,"cached":true}]}"#;
        let manifest = Manifest::parse(manifest).unwrap();
        assert_eq!(manifest.tasks.len(), 1);
        assert_eq!(manifest.tasks[0].url, None);
        assert_eq!(manifest.kept, [PathBuf::from("/b")]);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["relative", "/a/../b", "/", ""] {
            let json = format!(r#"{{"storages":[{{"mountPath":"{path}"}}]}}"#);
            let error = Manifest::parse(json.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::ManifestPath { .. }), "{path}");
        }
    }
}
