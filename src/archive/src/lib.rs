//! Untrusted tar archives and trees of files.
//!
//! | part | what it does |
//! |---|---|
//! | [`Reader`] | reads the entries of a tar archive within [`Limits`] |
//! | [`TreeExtractor`] | writes entries below one open folder, without following links |
//! | [`unpack`] | the first into the second |
//! | [`walk`], [`Packer`] | list a folder in sorted order; write a deterministic `.tar.gz` with the digests of its files |
//! | [`content_hash`] | identifies a version of a storage by its files |
//!
//! # Invariants
//!
//! - An archive that ends early or has a damaged header is an error, never a shorter archive.
//! - Memory is bounded whatever an archive contains.
//! - Nothing outside of the extractor's folder is touched.
//!
//! Decompression is the caller's: the formats differ by use.

mod content_hash;
mod entry;
mod error;
mod extension;
mod extract;
mod limits;
mod packer;
mod reader;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unpack;
mod walk;

pub use content_hash::content_hash;
pub use entry::{Entry, EntryKind};
pub use error::{Error, Result};
pub use extract::{ExtractOptions, Metadata, Node, Owner, Ownership, TreeExtractor};
pub use limits::Limits;
pub use packer::{PackedFile, Packer, open_source};
pub use reader::{Body, Reader};
pub use unpack::unpack;
pub use walk::{Descend, Unreadable, Visitor, WalkEntry, WalkKind, walk};
