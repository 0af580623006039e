//! What callers of the extractor choose.

use std::path::Path;

/// Options of an extractor.
#[derive(Debug, Clone, Copy)]
pub struct ExtractOptions {
    /// How many folders a path may lead through.
    pub depth: usize,
    /// The owners of files.
    pub ownership: Ownership,
    /// Whether a replaced file keeps its mode.
    pub keeps_mode: bool,
    /// Entries come in any order, and neither the top nor folders need entries, as in an archive.
    pub any_order: bool,
    /// The destination is a folder that no other process uses, and that is removed if extraction fails:
    /// files are created under their final names, which saves a rename each.
    pub is_private: bool,
    /// Whether `a//b` and `a/./b` are accepted as `a/b`.
    pub normalizes_paths: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            depth: 200,
            ownership: Ownership::Process,
            keeps_mode: false,
            any_order: false,
            is_private: false,
            normalizes_paths: false,
        }
    }
}

/// The owners of files. Without root, files belong to the user of the process, except with `Given` and
/// `Source`, which fail then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// All files belong to the user of the process.
    Process,
    /// New files belong to the owner of their folder; replaced files keep their owner.
    Inherited,
    /// New files belong to this owner; replaced files keep their owner.
    New(Owner),
    /// All files belong to this owner.
    Given(Owner),
    /// All files have the owner of the source.
    Source,
}

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A folder.
    Directory,
    /// A file. Its content follows.
    File,
    /// A symbolic link with this target.
    Symlink(&'a Path),
    /// Another name of an earlier file of the tree.
    HardLink(&'a Path),
}

/// The metadata of an entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metadata {
    /// Permissions.
    pub mode: u32,
    /// For [`Ownership::Source`].
    pub owner: Option<Owner>,
    /// Seconds since 1970.
    pub modified: Option<i64>,
}
