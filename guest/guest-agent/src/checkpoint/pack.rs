//! Packs a folder into a `.tar.gz` and hashes its files in the same pass, so that both agree.
//!
//! The archive is a scratch file of the run. If the disk has no room for it, a first pass only measures
//! it and a second packs it while it is uploaded: the processes that could change the folder have ended.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use guest_common::{Stop, chain};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::omission::Omissions;
use super::shape::{Shape, ShapeHash};
use super::walk::{EntryKind, WalkEntry, walk};
use crate::{Error, Result};

/// The most files of an artifact.
const MAX_FILES: usize = 50_000;

/// How often packing restarts because a file could not be read to its end.
const MAX_UNREADABLE: usize = 16;

/// A file in an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PackedFile {
    pub(super) path: String,
    pub(super) digest: [u8; 32],
    pub(super) size: u64,
}

/// A folder to pack.
pub(super) struct Source<'a> {
    /// `None` makes an empty archive.
    pub(super) root: Option<&'a Path>,
    pub(super) excluded: &'a [String],
    pub(super) stop: &'a Stop,
}

/// The contents of an archive.
pub(super) struct Contents {
    /// Sorted by path.
    pub(super) files: Vec<PackedFile>,
    pub(super) shape: Shape,
    pub(super) omissions: Omissions,
}

/// A packed folder.
pub(super) struct Package {
    pub(super) contents: Contents,
    pub(super) archive: Archive,
    pub(super) size: u64,
}

/// Where the archive's bytes are.
pub(super) enum Archive {
    /// In a file, positioned at its beginning.
    File(File),
    /// The disk had no room: to be packed again while it is uploaded, without these files.
    Repack(Unreadable),
}

/// Files that could not be read to their end, and why.
pub(super) type Unreadable = BTreeMap<String, String>;

/// Packs a folder into a scratch file, or measures it if the disk has no room.
pub(super) fn package(
    source: &Source<'_>,
    scratch: impl FnOnce() -> guest_common::Result<File>,
) -> Result<Package> {
    let mut unreadable = Unreadable::new();
    let warn = |error: &guest_common::Error| {
        log::warn!("cannot create a scratch file; error={}", chain(error));
    };
    let mut file = scratch().inspect_err(warn).ok();
    loop {
        let packed = match &file {
            Some(file) => into_file(source, &unreadable, file),
            None => measured(source, &unreadable),
        };
        match (packed, source.root) {
            (Err(Error::Archive { source }), _) if file.is_some() => {
                log::warn!("no room for an archive, packing it while it is sent; error={source}");
                file = None;
            }
            (Err(Error::ReadFile { path, source }), Some(root))
                if unreadable.len() < MAX_UNREADABLE =>
            {
                let inner = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                unreadable.insert(inner, source.to_string());
            }
            (packed, _) => return packed,
        }
    }
}

fn into_file(source: &Source<'_>, unreadable: &Unreadable, file: &File) -> Result<Package> {
    let failed = |source| Error::Archive { source };
    let empty = || -> io::Result<File> {
        file.set_len(0)?;
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(file)
    };
    let (contents, mut archive) = pack(source, unreadable, empty().map_err(failed)?)?;
    let size = archive.stream_position().map_err(failed)?;
    archive.rewind().map_err(failed)?;
    Ok(Package { contents, archive: Archive::File(archive), size })
}

fn measured(source: &Source<'_>, unreadable: &Unreadable) -> Result<Package> {
    let (contents, Counter(size)) = pack(source, unreadable, Counter(0))?;
    Ok(Package { contents, archive: Archive::Repack(unreadable.clone()), size })
}

/// A writer that only counts bytes.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Tar<W> = Builder<GzEncoder<BufWriter<W>>>;

/// Packs a folder. [`Error::ReadFile`] names a file that could not be read to its end: the archive is
/// unusable and must be packed again without that file.
pub(super) fn pack<W: Write>(
    source: &Source<'_>,
    unreadable: &Unreadable,
    into: W,
) -> Result<(Contents, W)> {
    let failed = |source| Error::Archive { source };
    let buffer = BufWriter::with_capacity(128 << 10, into);
    let mut tar = Builder::new(GzEncoder::new(buffer, Compression::fast()));
    let mut files: Vec<PackedFile> = Vec::new();
    let (mut shape, mut omissions) = (ShapeHash::default(), Omissions::default());
    if let Some(root) = source.root {
        walk(root, source.excluded, &mut omissions, &mut |found, omissions| {
            if source.stop.is_given() {
                return Err(Error::Timeout);
            }
            if let Some(reason) = unreadable.get(&found.path) {
                omissions.add(&found.path, reason);
                return Ok(());
            }
            shape.add(&found);
            if found.kind == EntryKind::File && files.len() == MAX_FILES {
                return Err(Error::TooManyFiles { path: root.to_owned(), max: MAX_FILES });
            }
            files.extend(add(&mut tar, root, found, omissions)?);
            Ok(())
        })?;
    }
    let finish = || {
        let buffer = tar.into_inner()?.finish()?;
        buffer.into_inner().map_err(io::IntoInnerError::into_error)
    };
    let into = finish().map_err(failed)?;
    files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok((Contents { files, shape: shape.shape(&omissions), omissions }, into))
}

/// Adds an entry to the archive. Returns it if it is a file.
fn add<W: Write>(
    tar: &mut Tar<W>,
    root: &Path,
    found: WalkEntry,
    omissions: &mut Omissions,
) -> Result<Option<PackedFile>> {
    let failed = |source| Error::Archive { source };
    match &found.kind {
        EntryKind::File => return add_file(tar, root, found, omissions),
        EntryKind::Folder { .. } => {
            let path = format!("{}/", found.path);
            let mut header = header(&found, EntryType::Directory);
            tar.append_data(&mut header, path, io::empty()).map_err(failed)?;
        }
        EntryKind::Link { target } => {
            let mut header = header(&found, EntryType::Symlink);
            add_link(tar, &mut header, &found.path, target).map_err(failed)?;
        }
    }
    Ok(None)
}

fn add_file<W: Write>(
    tar: &mut Tar<W>,
    root: &Path,
    found: WalkEntry,
    omissions: &mut Omissions,
) -> Result<Option<PackedFile>> {
    let whole = root.join(&found.path);
    let failed = |source| Error::ReadFile { path: whole.clone(), source };
    let opened = OpenOptions::new()
        .read(true)
        // The path may have become a link or a pipe: do not follow it, do not block on it.
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(&whole)
        .and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            omissions.add(&found.path, error);
            return Ok(None);
        }
    };
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
        return Err(failed(io::Error::other("it was truncated while it was read")));
    }
    Ok(Some(PackedFile { path: found.path, digest: content.hash.finalize().into(), size }))
}

/// Adds a link with its exact target: the library would normalize `a//b`, and still does for a target
/// that does not fit into the header.
fn add_link<W: Write>(
    tar: &mut Tar<W>,
    header: &mut Header,
    path: &str,
    target: &Path,
) -> io::Result<()> {
    let bytes = target.as_os_str().as_bytes();
    if bytes.len() > header.as_old().linkname.len() {
        return tar.append_link(header, path, target);
    }
    header.set_link_name_literal(bytes)?;
    tar.append_data(header, path, io::empty())
}

fn header(found: &WalkEntry, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(found.metadata.permissions().mode() & 0o777);
    header.set_mtime(u64::try_from(found.metadata.mtime()).unwrap_or(0));
    header
}

/// A reader that hashes the bytes it passes on.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    /// The read error, to tell it from an error of the writer.
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

/// The JSON manifest of the files in a memfd, positioned at its beginning, and its size.
pub(super) fn manifest(files: &[serde_json::Value]) -> io::Result<(File, u64)> {
    let manifest = serde_json::json!({
        "version": 1,
        "files": files,
        "createdAt": guest_common::iso_now(),
    });
    let file = File::from(memfd_create("manifest", MFdFlags::MFD_CLOEXEC)?);
    let mut buffer = BufWriter::new(file);
    serde_json::to_writer(&mut buffer, &manifest)?;
    buffer.flush()?;
    let mut file = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
    let size = file.stream_position()?;
    file.rewind()?;
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn on_a_full_disk_an_archive_is_measured_and_packed_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "content").unwrap();
        let stop = Stop::new();
        let source = Source { root: Some(folder.path()), excluded: &[], stop: &stop };
        let full = || Ok(OpenOptions::new().read(true).write(true).open("/dev/full").unwrap());
        let room = || Ok(tempfile::tempfile().unwrap());

        let measured = package(&source, full).unwrap();
        let packed = package(&source, room).unwrap();

        assert!(matches!(&measured.archive, Archive::Repack(unreadable) if unreadable.is_empty()));
        assert_eq!(measured.size, packed.size);
        assert_eq!(measured.contents.files, packed.contents.files);
        let (again, bytes) = pack(&source, &Unreadable::new(), Vec::new()).unwrap();
        assert_eq!((bytes.len() as u64, again.files), (packed.size, packed.contents.files));
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_is_left_out_and_the_rest_is_packed() {
        // Files of sysfs are shorter than their metadata says.
        let sys = Path::new("/sys/kernel");
        let (excluded, stop) = (names_but(sys, "fscaps"), Stop::new());
        let source = Source { root: Some(sys), excluded: &excluded, stop: &stop };

        let package = package(&source, || Ok(tempfile::tempfile().unwrap())).unwrap();

        assert!(package.contents.files.is_empty());
        assert_eq!(
            package.contents.omissions.warnings("w"),
            ["artifact w: fscaps was not saved: it was truncated while it was read"]
        );
    }

    fn names_but(folder: &Path, name: &str) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|other| other != name).collect()
    }
}
