//! Walks a folder in sorted order without following links. Unreadable entries become omissions; the walk
//! goes on.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::omission::Omissions;
use crate::Result;

const MAX_DEPTH: usize = 200;

/// An entry of a folder.
#[derive(Debug)]
pub(super) struct WalkEntry {
    /// Relative to the folder.
    pub(super) path: String,
    pub(super) metadata: Metadata,
    pub(super) kind: EntryKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Folder { is_empty: bool },
    Link { target: PathBuf },
}

/// Passes every entry below `root` to `take`, folders before their content, siblings sorted by name.
/// Sockets, pipes and devices are skipped and logged.
pub(super) fn walk(
    root: &Path,
    excluded: &[String],
    omissions: &mut Omissions,
    take: &mut dyn FnMut(WalkEntry, &mut Omissions) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk { root, excluded, omissions, take };
    let names = walk.names("");
    walk.folder("", names, 0)
}

struct Walk<'a> {
    root: &'a Path,
    excluded: &'a [String],
    omissions: &'a mut Omissions,
    take: &'a mut dyn FnMut(WalkEntry, &mut Omissions) -> Result<()>,
}

impl Walk<'_> {
    fn folder(&mut self, inner: &str, names: Vec<String>, depth: usize) -> Result<()> {
        for name in names {
            self.entry(below(inner, &name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: String, depth: usize) -> Result<()> {
        let (metadata, kind) = match look(&self.root.join(&path)) {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.omissions.add(&path, error);
                return Ok(());
            }
        };
        if !matches!(kind, EntryKind::Folder { .. }) {
            return (self.take)(WalkEntry { path, metadata, kind }, self.omissions);
        }
        let names = if depth < MAX_DEPTH {
            self.names(&path)
        } else {
            self.omissions.add(&below(&path, "*"), "it is too deep");
            Vec::new()
        };
        let kind = EntryKind::Folder { is_empty: names.is_empty() };
        (self.take)(WalkEntry { path: path.clone(), metadata, kind }, self.omissions)?;
        self.folder(&path, names, depth + 1)
    }

    /// The sorted names in a folder that are not excluded. Empty if it cannot be read.
    fn names(&mut self, inner: &str) -> Vec<String> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(self.root.join(inner)) {
            Ok(entries) => entries,
            Err(error) => {
                self.omissions.add(&below(inner, "*"), error);
                return names;
            }
        };
        for entry in entries {
            match entry.map(|entry| entry.file_name().into_string()) {
                Ok(Ok(name)) if self.excluded.contains(&name) => {}
                Ok(Ok(name)) => names.push(name),
                Ok(Err(name)) => {
                    self.omissions
                        .add(&below(inner, &name.to_string_lossy()), "its name is not UTF-8");
                }
                Err(error) => {
                    self.omissions.add(&below(inner, "*"), error);
                    break;
                }
            }
        }
        names.sort_unstable();
        names
    }
}

/// The metadata and kind of an entry. `None` if it is neither a file, a folder nor a link.
fn look(path: &Path) -> io::Result<Option<(Metadata, EntryKind)>> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        EntryKind::Folder { is_empty: true }
    } else if kind.is_symlink() {
        EntryKind::Link { target: fs::read_link(path)? }
    } else if kind.is_file() {
        EntryKind::File
    } else {
        let what = if kind.is_socket() { "socket" } else { "pipe or device" };
        log::warn!("skipping a {what}; path={}", path.display());
        return Ok(None);
    };
    Ok(Some((metadata, kind)))
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
