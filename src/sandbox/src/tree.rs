//! Trees of files: a sequence of entries, each file's entry followed by its bytes.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use crate::Result;

/// A request to write a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteRequest {
    /// The absolute path to which the entries' paths are relative.
    pub target: PathBuf,
    /// If given and `target` is a folder, then the tree goes to this name in it.
    pub name: Option<PathBuf>,
    /// Whether missing folders above a target are made.
    pub make_parents: bool,
    /// Who owns what is made where the entry does not say. If this does not either: root, or with
    /// `keeps_existing` the owner of the folder that it is made in.
    pub owner: Option<Owner>,
    /// Whether a file that is there keeps its mode, and its owner unless the entry names one; and
    /// whether a link to a file, as the tree's top, is followed.
    pub keeps_existing: bool,
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the tree's top; empty for the top itself.
    ///
    /// A sandbox's paths are hostile: they may contain `..` or be absolute.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// When it was last changed, in seconds since 1970.
    pub modified: Option<i64>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// The size in bytes when it was opened: for a progress bar, not to be trusted.
        size: u64,
    },
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: PathBuf,
    },
    /// Another name of a file that came before.
    HardLink {
        /// That file's path, relative to the tree's top.
        target: PathBuf,
    },
    /// No entry of its own: a hole in the file whose entry came last, at the place that its bytes
    /// have reached.
    Hole {
        /// Its length in bytes.
        length: u64,
    },
    /// Something without content, which is to be skipped; it only comes out of a sandbox.
    Special(Special),
}

/// What has a name in a folder and no content that could be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A Unix socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A block or character device.
    Device,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "a socket",
            Self::Fifo => "a FIFO",
            Self::Device => "a device",
        })
    }
}

/// User and group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Writes a tree into a sandbox. Dropping it unfinished leaves no partial file behind.
pub trait TreeWriter: Send {
    /// The next file, folder or link.
    fn entry(&mut self, entry: &Entry, deadline: Instant) -> Result<()>;

    /// More bytes of the file whose entry came last.
    fn data(&mut self, data: &[u8], deadline: Instant) -> Result<()>;

    /// Waits until the tree is complete.
    fn finish(self: Box<Self>, deadline: Instant) -> Result<()>;
}

/// Reads a tree out of a sandbox.
pub trait TreeReader: Send {
    /// The next item; `None` at the end.
    fn next(&mut self, deadline: Instant) -> Result<Option<TreeItem>>;
}

/// A piece of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeItem {
    /// A file, folder or link begins.
    Entry(Entry),
    /// Bytes of the file whose entry came last.
    Data(Vec<u8>),
}
