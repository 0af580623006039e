//! What is in a folder: sorted, links as links, nothing left out in silence.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

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
    take: &mut dyn FnMut(Found) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk { root, excluded, take };
    walk.folder("", 0).map(drop)
}

struct Walk<'a> {
    root: &'a Path,
    excluded: &'a [String],
    take: &'a mut dyn FnMut(Found) -> Result<()>,
}

impl Walk<'_> {
    fn folder(&mut self, inner: &str, depth: usize) -> Result<()> {
        let path = self.root.join(inner);
        let failed = |source| Error::Keep { path: path.clone(), source };
        if depth > DEEPEST {
            return Err(failed(io::Error::other("it is too deep")));
        }
        for name in self.names(&path)? {
            let below = if inner.is_empty() { name } else { format!("{inner}/{name}") };
            self.entry(below, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: String, depth: usize) -> Result<()> {
        let whole = self.root.join(&path);
        let failed = |source| Error::Keep { path: whole.clone(), source };
        let metadata = fs::symlink_metadata(&whole).map_err(failed)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let is_empty = self.names(&whole)?.is_empty();
            (self.take)(Found { path: path.clone(), metadata, kind: Kind::Folder { is_empty } })?;
            return self.folder(&path, depth + 1);
        }
        let kind = if kind.is_symlink() {
            Kind::Link { target: fs::read_link(&whole).map_err(failed)? }
        } else if kind.is_file() {
            Kind::File
        } else {
            let what = if kind.is_socket() { "socket" } else { "pipe or device" };
            log::warn!("a {what} is not kept; path={path}");
            return Ok(());
        };
        (self.take)(Found { path, metadata, kind })
    }

    /// The names in a folder that count, sorted.
    fn names(&self, path: &Path) -> Result<Vec<String>> {
        let failed = |source| Error::Keep { path: path.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.into_string().map_err(|name| Error::Keep {
                path: path.join(name),
                source: io::Error::new(io::ErrorKind::InvalidFilename, "its name is no UTF-8"),
            })?;
            if !self.excluded.contains(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}
