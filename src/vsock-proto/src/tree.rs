//! Files: a tree of them travels as entries, each file's entry followed by its bytes.
//!
//! One file is a tree of one entry with an empty path; a batch of small files is a tree
//! under `/`. A file ends where the next entry, or the stream's end, comes: so it may
//! grow, shrink or have no size at all (`/proc`, a pipe) while it is read.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Asks the guest to write the tree that follows.
///
/// Each file is written beside its target and renamed over it when it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Write {
    /// What the entries' paths are relative to; an absolute path.
    pub target: ByteBuf,
    /// If not empty and `target` is a folder, then the tree goes to this name in it.
    pub name: ByteBuf,
    /// Whether missing folders above a target are made.
    pub make_parents: bool,
    /// Who owns what is made where the entry does not say. If this does not either: root, or with
    /// `keeps_existing` the owner of the folder that it is made in.
    pub owner: Option<Owner>,
    /// Whether a file that is there keeps its mode, and its owner unless the entry names one; and
    /// whether a link to a file, as the tree's top, is followed.
    pub keeps_existing: bool,
}

/// Asks the guest for the tree at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Read {
    /// An absolute path. If it is a link, then what it leads to is read; links below it
    /// are sent as links.
    pub path: ByteBuf,
}

/// One file, folder or link of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the tree's top; empty for the top itself, and for a hole. Folders come before
    /// what is in them.
    pub path: ByteBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// When it was last changed, in seconds since 1970.
    pub modified: Option<i64>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file, its bytes follow as `Data`.
    File {
        /// The size when the entry was made, in bytes: for a progress bar, not to be trusted.
        size: u64,
    },
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: ByteBuf,
    },
    /// Another name of a file that came before.
    HardLink {
        /// That file's path, relative to the tree's top.
        target: ByteBuf,
    },
    /// No entry of its own: a hole in the file whose entry came last, at the place that its bytes
    /// have reached.
    Hole {
        /// Its length in bytes.
        length: u64,
    },
    /// Something without content, which a reader skips; only a guest sends it.
    Special(Special),
}

/// What has a name in a folder and no content that could be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Special {
    /// A Unix socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A block or character device.
    Device,
}

/// User and group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Entry {
    /// What this entry costs of its stream's credit, in bytes.
    pub fn cost(&self) -> u64 {
        let target = match &self.kind {
            EntryKind::Symlink { target } | EntryKind::HardLink { target } => target.len(),
            EntryKind::File { .. }
            | EntryKind::Directory
            | EntryKind::Hole { .. }
            | EntryKind::Special(_) => 0,
        };
        (64 + self.path.len() + target) as u64
    }
}
