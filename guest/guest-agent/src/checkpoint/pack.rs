//! A folder as an archive, its files hashed while they are packed, so that both agree.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use guest_common::Stop;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::shape::{Shape, ShapeHash};
use super::walk::{Found, Kind, walk};
use crate::{Error, Result};

/// The most files of an artifact.
const MOST_FILES: usize = 50_000;

/// A file that was packed.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) path: String,
    pub(super) digest: [u8; 32],
    pub(super) size: u64,
}

/// A folder that was packed.
pub(super) struct Package {
    /// Sorted by path.
    pub(super) files: Vec<Packed>,
    pub(super) shape: Shape,
    /// At its beginning.
    pub(super) archive: File,
    pub(super) archive_size: u64,
}

type Tar = Builder<GzEncoder<BufWriter<File>>>;

/// Packs `root` into `archive`, which is empty.
pub(super) fn pack(
    root: &Path,
    excluded: &[String],
    archive: File,
    stop: &Stop,
) -> Result<Package> {
    let archive_error = |source| Error::Archive { source };
    let buffer = BufWriter::with_capacity(128 << 10, archive);
    let mut tar = Builder::new(GzEncoder::new(buffer, Compression::fast()));
    let mut files: Vec<Packed> = Vec::new();
    let mut shape = ShapeHash::default();
    walk(root, excluded, &mut |found| {
        if stop.is_given() {
            return Err(Error::Late);
        }
        shape.add(&found);
        match &found.kind {
            Kind::File if files.len() == MOST_FILES => {
                return Err(Error::TooManyFiles { path: root.to_owned(), most: MOST_FILES });
            }
            Kind::File => files.push(add_file(&mut tar, root, found)?),
            Kind::Folder { .. } => {
                let path = format!("{}/", found.path);
                let mut header = header(&found, EntryType::Directory);
                tar.append_data(&mut header, path, io::empty()).map_err(archive_error)?;
            }
            Kind::Link { target } => {
                let mut header = header(&found, EntryType::Symlink);
                add_link(&mut tar, &mut header, &found.path, target).map_err(archive_error)?;
            }
        }
        Ok(())
    })?;
    let finish = || -> io::Result<(File, u64)> {
        let buffer = tar.into_inner()?.finish()?;
        let mut archive = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
        let size = archive.stream_position()?;
        archive.rewind()?;
        Ok((archive, size))
    };
    let (archive, archive_size) = finish().map_err(archive_error)?;
    files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(Package { files, shape: shape.shape(), archive, archive_size })
}

fn add_file(tar: &mut Tar, root: &Path, found: Found) -> Result<Packed> {
    let whole = root.join(&found.path);
    let failed = |source| Error::Keep { path: whole.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        // What was a file a moment ago: neither followed if it is a link now, nor waited for.
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(&whole)
        .map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut header = header(&found, EntryType::Regular);
    header.set_size(size);
    let mut content =
        Hashing { inner: file.take(size), hash: Sha256::new(), count: 0, error: None };
    if let Err(source) = tar.append_data(&mut header, &found.path, &mut content) {
        return Err(match content.error {
            Some(source) => failed(source),
            None => Error::Archive { source },
        });
    }
    if content.count != size {
        return Err(failed(io::Error::other("it became shorter while it was read")));
    }
    Ok(Packed { path: found.path, digest: content.hash.finalize().into(), size })
}

/// Adds a link with its target as it is: the library would tidy `a//b` up. It may do so with a target
/// that does not fit into the header.
fn add_link(tar: &mut Tar, header: &mut Header, path: &str, target: &Path) -> io::Result<()> {
    let bytes = target.as_os_str().as_bytes();
    if bytes.len() > header.as_old().linkname.len() {
        return tar.append_link(header, path, target);
    }
    header.set_link_name_literal(bytes)?;
    tar.append_data(header, path, io::empty())
}

fn header(found: &Found, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(found.metadata.permissions().mode() & 0o777);
    header.set_mtime(u64::try_from(found.metadata.mtime()).unwrap_or(0));
    header
}

/// Reads, and hashes what it reads.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    /// Why reading failed: the writer's own errors look the same.
    error: Option<io::Error>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.hash.update(&buffer[..count]);
                self.count += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Writes a manifest of the files; returns it at its beginning, and its size.
pub(super) fn write_manifest(files: &[serde_json::Value], into: File) -> io::Result<(File, u64)> {
    let manifest = serde_json::json!({
        "version": 1,
        "files": files,
        "createdAt": guest_common::iso_now(),
    });
    let mut buffer = BufWriter::new(into);
    serde_json::to_writer(&mut buffer, &manifest)?;
    buffer.flush()?;
    let mut file = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
    let size = file.stream_position()?;
    file.rewind()?;
    Ok((file, size))
}
