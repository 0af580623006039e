//! Walks a folder in sorted order without following links.

use std::fmt;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// How many folders a walk goes down. Extractors accept what is at this depth.
const MAX_DEPTH: usize = 200;

/// An entry of a folder.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct WalkEntry {
    /// Relative to the folder.
    pub path: String,
    pub metadata: Metadata,
    pub kind: WalkKind,
}

/// The kind of an entry.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum WalkKind {
    File,
    Folder { is_empty: bool },
    Link { target: PathBuf },
}

/// Whether the walk goes into a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Descend {
    Yes,
    No,
}

/// Why an entry cannot be packed.
#[derive(Debug)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Unreadable {
    /// The entry itself.
    Entry(io::Error),
    /// The names in a folder, or some of them.
    Folder(io::Error),
    NotUtf8,
    TooDeep,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(error) | Self::Folder(error) => error.fmt(formatter),
            Self::NotUtf8 => formatter.write_str("its name is not UTF-8"),
            Self::TooDeep => formatter.write_str("it is too deep"),
        }
    }
}

/// Receives the entries of a walk.
pub trait Visitor {
    /// What ends the walk.
    type Error;

    /// Takes an entry. Folders come before their content, siblings sorted by name.
    fn entry(&mut self, found: WalkEntry) -> Result<Descend, Self::Error>;

    /// Takes the path of an entry or folder that cannot be read. The walk goes on without it.
    fn unreadable(&mut self, path: &Path, reason: Unreadable) -> Result<(), Self::Error>;
}

/// Passes every entry below `root` to the visitor, except those with an excluded name. Sockets, pipes and
/// devices have no content: they are skipped with a warning.
pub fn walk<V: Visitor>(root: &Path, excluded: &[String], visitor: &mut V) -> Result<(), V::Error> {
    let mut walk = Walk { root, excluded, visitor };
    let names = walk.names("")?;
    walk.folder("", names, 0)
}

struct Walk<'a, V> {
    root: &'a Path,
    excluded: &'a [String],
    visitor: &'a mut V,
}

impl<V: Visitor> Walk<'_, V> {
    fn folder(&mut self, inner: &str, names: Vec<String>, depth: usize) -> Result<(), V::Error> {
        for name in names {
            self.entry(below(inner, &name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: String, depth: usize) -> Result<(), V::Error> {
        let (metadata, kind) = match look(&self.root.join(&path)) {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            Err(error) => {
                return self.visitor.unreadable(Path::new(&path), Unreadable::Entry(error));
            }
        };
        if !matches!(kind, WalkKind::Folder { .. }) {
            return self.visitor.entry(WalkEntry { path, metadata, kind }).map(drop);
        }
        let names = if depth < MAX_DEPTH {
            self.names(&path)?
        } else {
            self.visitor.unreadable(Path::new(&path), Unreadable::TooDeep)?;
            Vec::new()
        };
        let kind = WalkKind::Folder { is_empty: names.is_empty() };
        match self.visitor.entry(WalkEntry { path: path.clone(), metadata, kind })? {
            Descend::Yes => self.folder(&path, names, depth + 1),
            Descend::No => Ok(()),
        }
    }

    /// The sorted names in a folder that are not excluded. Empty if it cannot be read.
    fn names(&mut self, inner: &str) -> Result<Vec<String>, V::Error> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(self.root.join(inner)) {
            Ok(entries) => entries,
            Err(error) => {
                self.visitor.unreadable(Path::new(inner), Unreadable::Folder(error))?;
                return Ok(names);
            }
        };
        for entry in entries {
            match entry.map(|entry| entry.file_name().into_string()) {
                Ok(Ok(name)) if self.excluded.contains(&name) => {}
                Ok(Ok(name)) => names.push(name),
                Ok(Err(name)) => {
                    let path = Path::new(inner).join(name);
                    self.visitor.unreadable(&path, Unreadable::NotUtf8)?;
                }
                Err(error) => {
                    self.visitor.unreadable(Path::new(inner), Unreadable::Folder(error))?;
                    break;
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// The metadata and kind of an entry. `None` if it is neither a file, a folder nor a link.
fn look(path: &Path) -> io::Result<Option<(Metadata, WalkKind)>> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        WalkKind::Folder { is_empty: true }
    } else if kind.is_symlink() {
        WalkKind::Link { target: fs::read_link(path)? }
    } else if kind.is_file() {
        WalkKind::File
    } else {
        log::warn!("{} is {}: it is not packed", path.display(), special(kind));
        return Ok(None);
    };
    Ok(Some((metadata, kind)))
}

fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a device"
    }
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
