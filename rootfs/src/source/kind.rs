//! Detects whether a file or folder is a container image or a root file system.
//!
//! An `oci-layout`, or a `manifest.json` that names layers, at any position of an archive makes it
//! an image. Other names are not considered: writers of Docker archives use various ones, such as
//! `sha256:…`, `….tar.gz` and `config.json`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::open_archive;
use crate::compress;
use crate::error::{Error, Result};
use crate::members::Kind;

/// The size limit of a `manifest.json`.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// Top-level folders, of which a root file system has at least one.
const TOP_FOLDERS: [&[u8]; 21] = [
    b"bin", b"boot", b"dev", b"etc", b"home", b"lib", b"lib32", b"lib64", b"media", b"mnt", b"nix",
    b"opt", b"proc", b"root", b"run", b"sbin", b"srv", b"sys", b"tmp", b"usr", b"var",
];

/// Folders that no image layout has: an archive with one need not be read to its end.
const CERTAIN: [&[u8]; 5] = [b"bin", b"etc", b"lib", b"sbin", b"usr"];

/// Whether a folder is an unpacked image.
pub(super) fn is_image_folder(path: &Path) -> bool {
    let manifest = || {
        let file = File::open(path.join("manifest.json")).ok()?;
        Some(is_docker_manifest(file))
    };
    path.join("oci-layout").is_file() || manifest().unwrap_or(false)
}

/// Whether an archive is an image; an error if it is not a root file system either.
pub(super) fn is_image_archive(path: &Path) -> Result<bool> {
    let mut archive = open_archive(path)?;
    let mut is_root = false;
    while let Some(member) = archive.next_member()? {
        let inner = member.path.strip_prefix(b"./").unwrap_or(&member.path);
        let mut parts = inner.splitn(2, |byte| *byte == b'/');
        let top = parts.next().unwrap_or_default();
        let is_below = parts.next().is_some();
        match (&member.kind, inner) {
            (Kind::File, b"oci-layout") => return Ok(true),
            (Kind::File, b"manifest.json") if is_docker_manifest(archive.body()) => {
                return Ok(true);
            }
            _ => {}
        }
        let is_folder = is_below || matches!(member.kind, Kind::Directory | Kind::Symlink(_));
        if is_folder && CERTAIN.contains(&top) {
            return Ok(false);
        }
        is_root |= is_folder && TOP_FOLDERS.contains(&top);
    }
    if is_root { Ok(false) } else { Err(Error::UnknownArchive { path: path.to_owned() }) }
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "Layers")]
    _layers: Option<Vec<String>>,
    #[serde(rename = "Config")]
    _config: String,
}

/// Checks the content, as a root file system may have a file of that name.
fn is_docker_manifest(file: impl Read) -> bool {
    let bytes = compress::read_bounded(file, MANIFEST_LIMIT).unwrap_or_default();
    serde_json::from_slice::<Vec<Image>>(&bytes).is_ok()
}
