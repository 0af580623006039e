//! The shape of a folder: its links, empty folders and modes, without the content of its files.
//!
//! The platform identifies a version by its files only. If an artifact's files are the same but its
//! shape has changed, the prepare call forces a new version.

use std::convert::Infallible;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use archive::{Descend, Unreadable, Visitor, WalkEntry, WalkKind};
use sha2::{Digest as _, Sha256};

use super::omission::Omissions;
use crate::config::Artifact;

/// The shape of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `None` if some of the folder could not be read.
    digest: Option<[u8; 32]>,
}

impl Shape {
    /// The current shapes of all artifacts.
    pub(crate) fn of_all(artifacts: &[Artifact], excluded: &[String]) -> Vec<Shape> {
        artifacts.iter().map(|artifact| Shape::of(&artifact.mount_path, excluded)).collect()
    }

    fn of(root: &Path, excluded: &[String]) -> Shape {
        let mut walked = ShapeWalk::default();
        match archive::walk(root, excluded, &mut walked) {
            Ok(()) => walked.hash.shape(&walked.omissions),
            Err(never) => match never {},
        }
    }
}

/// Walks a folder for its shape only.
#[derive(Default)]
struct ShapeWalk {
    hash: ShapeHash,
    omissions: Omissions,
}

impl Visitor for ShapeWalk {
    type Error = Infallible;

    fn entry(&mut self, found: WalkEntry) -> Result<Descend, Infallible> {
        self.hash.add(&found);
        Ok(Descend::Yes)
    }

    fn unreadable(&mut self, path: &Path, reason: Unreadable) -> Result<(), Infallible> {
        self.omissions.unreadable(path, &reason);
        Ok(())
    }
}

/// Computes a shape.
#[derive(Default)]
pub(super) struct ShapeHash {
    hash: Sha256,
}

impl ShapeHash {
    pub(super) fn add(&mut self, found: &WalkEntry) {
        let mode = found.metadata.permissions().mode() & 0o777;
        let (kind, target) = match &found.kind {
            WalkKind::File => (b'f', &b""[..]),
            WalkKind::Folder { is_empty: true } => (b'e', &b""[..]),
            WalkKind::Folder { is_empty: false } => (b'd', &b""[..]),
            WalkKind::Link { target } => (b'l', target.as_os_str().as_bytes()),
        };
        // The kernel ignores the mode of a link.
        let mode = if kind == b'l' { 0 } else { mode };
        for part in [&[kind][..], &mode.to_be_bytes(), found.path.as_bytes(), &[0], target, &[0]] {
            self.hash.update(part);
        }
    }

    /// The shape of the entries that were added.
    pub(super) fn shape(self, omissions: &Omissions) -> Shape {
        Shape { digest: omissions.is_empty().then(|| self.hash.finalize().into()) }
    }
}
