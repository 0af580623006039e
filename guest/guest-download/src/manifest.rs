//! Parses the manifest, in its older or newer form.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use contract::StorageManifest;

use crate::instruction::FileName;
use crate::{Error, Result};

/// A parsed manifest.
#[derive(Debug)]
pub struct Manifest {
    pub(crate) tasks: Vec<Task>,
    /// Paths that are removed first.
    pub(crate) cleanup: Vec<PathBuf>,
    /// Paths that the cleanup must not remove: cached mounts.
    pub(crate) kept: Vec<PathBuf>,
    pub(crate) instruction_cleanup: Vec<(PathBuf, Vec<FileName>)>,
}

/// An archive to unpack, or a folder to create.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) kind: TaskKind,
    pub(crate) mount: PathBuf,
    /// The folder into which the archive is unpacked: usually the mount itself.
    pub(crate) target: PathBuf,
    /// A secret. Without one the folder is only created.
    pub(crate) url: Option<String>,
    pub(crate) instruction: Option<FileName>,
}

/// The kind of a task. It decides what a missing archive means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// A missing archive is an error.
    Storage,
    /// A missing archive means that this is the first run.
    Artifact,
}

impl Manifest {
    /// Parses a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let json: StorageManifest =
            serde_json::from_slice(bytes).map_err(|source| Error::Manifest { source })?;
        let storages = json.storages.into_iter().flatten().map(|entry| (TaskKind::Storage, entry));
        let mounts = json.storage_mounts.into_iter().flatten().map(|entry| {
            (
                if entry.writeback == Some(true) { TaskKind::Artifact } else { TaskKind::Storage },
                entry,
            )
        });
        let artifacts = json.artifacts.into_iter().flatten();
        let artifacts = artifacts.chain(json.artifact).chain(json.memory);
        let artifacts = artifacts.map(|entry| (TaskKind::Artifact, entry));

        let (mut tasks, mut kept) = (Vec::new(), Vec::new());
        for (kind, entry) in storages.chain(mounts).chain(artifacts) {
            let mount = checked(entry.mount_path.into())?;
            let url = entry.archive_url.filter(|url| !url.is_empty() && url != "null");
            let instruction =
                entry.instructions_target_filename.as_deref().and_then(FileName::parse);
            if entry.cached == Some(true) && url.is_none() {
                kept.push(mount.clone());
                if instruction.is_none() {
                    continue;
                }
            }
            let target = match entry.extract_path {
                Some(path) if url.is_some() => checked(path.into())?,
                _ => mount.clone(),
            };
            tasks.push(Task { kind, mount, target, url, instruction });
        }
        let cleanup = json
            .cleanup_paths
            .into_iter()
            .flatten()
            .map(PathBuf::from)
            .map(checked)
            .collect::<Result<_>>()?;
        let cleanups = json.instruction_cleanups.into_iter().flatten();
        let instruction_cleanup = cleanups
            .map(|cleanup| {
                Ok((
                    checked(cleanup.mount_path.into())?,
                    FileName::for_cleanup(cleanup.target_filename),
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self { tasks, cleanup, kept, instruction_cleanup })
    }
}

impl Task {
    /// Its name in the log of operations.
    pub(crate) fn action(&self) -> &'static str {
        match self.kind {
            TaskKind::Storage => "storage_download",
            TaskKind::Artifact => "artifact_download",
        }
    }

    /// The paths that it modifies, with symbolic links resolved.
    pub(crate) fn paths(&self) -> HashSet<PathBuf> {
        [&self.mount, &self.target].into_iter().map(|path| resolved(path)).collect()
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == TaskKind::Storage { "storage" } else { "artifact" };
        write!(f, "{kind} at {}", self.mount.display())
    }
}

/// Normalizes `.` and doubled slashes. An error if the path is relative, `/`, or contains `..`.
fn checked(path: PathBuf) -> Result<PathBuf> {
    let clean: PathBuf = path.components().collect();
    let has_parent = clean.components().any(|part| part == Component::ParentDir);
    if has_parent || !clean.is_absolute() || clean.parent().is_none() {
        return Err(Error::ManifestPath { path });
    }
    Ok(clean)
}

/// Resolves the symbolic links of the part of a path that exists, so that two names of one folder are
/// equal.
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
                (TaskKind::Storage, Path::new("/a/b"))
            );
            assert_eq!(
                (tasks[1].kind, tasks[1].mount.as_path()),
                (TaskKind::Artifact, Path::new("/c"))
            );
        }
    }

    #[test]
    fn the_word_null_is_no_url_and_a_cached_mount_is_no_task() {
        let manifest = br#"{"storages":[{"mountPath":"/a","archiveUrl":"null"},
            {"mountPath":"/b","archiveUrl":null,"cached":true}]}"#;
        let manifest = Manifest::parse(manifest).unwrap();
        assert_eq!(manifest.tasks.len(), 1);
        assert_eq!(manifest.tasks[0].url, None);
        assert_eq!(manifest.kept, [PathBuf::from("/b")]);
    }

    #[test]
    fn relative_paths_and_paths_with_parent_components_are_rejected() {
        for path in ["relative", "/a/../b", "/", ""] {
            let json = format!(r#"{{"storages":[{{"mountPath":"{path}"}}]}}"#);
            let error = Manifest::parse(json.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::ManifestPath { .. }), "{path}");
        }
    }
}
