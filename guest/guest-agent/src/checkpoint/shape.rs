//! What a folder is besides the content of its files: links, empty folders, modes.
//!
//! The platform knows a version by its files only. If an artifact has the files that it had, but
//! another shape, the platform is told to make a new version of it all the same.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::gap::Gaps;
use super::walk::{Found, Kind, walk};
use crate::config::Artifact;

/// The shape of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// None if not all of it could be looked at.
    digest: Option<[u8; 32]>,
}

impl Shape {
    /// The shapes of all artifacts as they are now.
    pub(crate) fn of_all(artifacts: &[Artifact], excluded: &[String]) -> Vec<Shape> {
        artifacts.iter().map(|artifact| Shape::of(&artifact.mount_path, excluded)).collect()
    }

    fn of(root: &Path, excluded: &[String]) -> Shape {
        let mut hash = ShapeHash::default();
        let mut gaps = Gaps::default();
        let walked = walk(root, excluded, &mut gaps, &mut |found, _| {
            hash.add(&found);
            Ok(())
        });
        if walked.is_ok() { hash.shape(&gaps) } else { Shape { digest: None } }
    }
}

/// A shape that is being found.
#[derive(Default)]
pub(super) struct ShapeHash {
    hash: Sha256,
}

impl ShapeHash {
    pub(super) fn add(&mut self, found: &Found) {
        let mode = found.metadata.permissions().mode() & 0o777;
        let (kind, target) = match &found.kind {
            Kind::File => (b'f', &b""[..]),
            Kind::Folder { is_empty: true } => (b'e', &b""[..]),
            Kind::Folder { is_empty: false } => (b'd', &b""[..]),
            Kind::Link { target } => (b'l', target.as_os_str().as_bytes()),
        };
        // The mode of a link means nothing.
        let mode = if kind == b'l' { 0 } else { mode };
        for part in [&[kind][..], &mode.to_be_bytes(), found.path.as_bytes(), &[0], target, &[0]] {
            self.hash.update(part);
        }
    }

    /// The shape, unless there are gaps in it.
    pub(super) fn shape(self, gaps: &Gaps) -> Shape {
        Shape { digest: gaps.is_empty().then(|| self.hash.finalize().into()) }
    }
}
