//! What is in a folder: sorted, links as links. What cannot be read is a gap, and the rest goes on.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::gap::Gaps;
use crate::Result;

/// The deepest folder.
const DEEPEST: usize = 200;

/// Something that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Below the folder.
    pub(super) path: String,
    pub(super) metadata: Metadata,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder { is_empty: bool },
    Link { target: PathBuf },
}

/// Hands all that is below `root` to `take`, folders before what is in them, siblings by name.
/// Sockets, pipes and devices are no content: they are passed over, which is logged.
pub(super) fn walk(
    root: &Path,
    excluded: &[String],
    gaps: &mut Gaps,
    take: &mut dyn FnMut(Found, &mut Gaps) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk { root, excluded, gaps, take };
    let names = walk.names("");
    walk.folder("", names, 0)
}

struct Walk<'a> {
    root: &'a Path,
    excluded: &'a [String],
    gaps: &'a mut Gaps,
    take: &'a mut dyn FnMut(Found, &mut Gaps) -> Result<()>,
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
                self.gaps.add(&path, error);
                return Ok(());
            }
        };
        if !matches!(kind, Kind::Folder { .. }) {
            return (self.take)(Found { path, metadata, kind }, self.gaps);
        }
        let names = if depth < DEEPEST {
            self.names(&path)
        } else {
            self.gaps.add(&below(&path, "*"), "it is too deep");
            Vec::new()
        };
        let kind = Kind::Folder { is_empty: names.is_empty() };
        (self.take)(Found { path: path.clone(), metadata, kind }, self.gaps)?;
        self.folder(&path, names, depth + 1)
    }

    /// The names in a folder that count, sorted; none if it cannot be read.
    fn names(&mut self, inner: &str) -> Vec<String> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(self.root.join(inner)) {
            Ok(entries) => entries,
            Err(error) => {
                self.gaps.add(&below(inner, "*"), error);
                return names;
            }
        };
        for entry in entries {
            match entry.map(|entry| entry.file_name().into_string()) {
                Ok(Ok(name)) if self.excluded.contains(&name) => {}
                Ok(Ok(name)) => names.push(name),
                Ok(Err(name)) => {
                    self.gaps.add(&below(inner, &name.to_string_lossy()), "its name is no UTF-8");
                }
                Err(error) => {
                    self.gaps.add(&below(inner, "*"), error);
                    break;
                }
            }
        }
        names.sort_unstable();
        names
    }
}

/// What is at a path; nothing if it is neither file, folder nor link.
fn look(path: &Path) -> io::Result<Option<(Metadata, Kind)>> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        Kind::Folder { is_empty: true }
    } else if kind.is_symlink() {
        Kind::Link { target: fs::read_link(path)? }
    } else if kind.is_file() {
        Kind::File
    } else {
        let what = if kind.is_socket() { "socket" } else { "pipe or device" };
        log::warn!("a {what} is not kept; path={}", path.display());
        return Ok(None);
    };
    Ok(Some((metadata, kind)))
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
