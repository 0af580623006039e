//! A folder as an archive, its files hashed while they are packed, so that both agree.
//!
//! The archive is a file of the run. If the disk has no room for it, it is only measured, and packed
//! anew while it is sent: the processes that could change the folder have ended by then.

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

use super::gap::Gaps;
use super::shape::{Shape, ShapeHash};
use super::walk::{Found, Kind, walk};
use crate::{Error, Result};

/// The most files of an artifact.
const MOST_FILES: usize = 50_000;

/// How often packing begins anew because a file could not be read to its end.
const MOST_DAMAGED: usize = 16;

/// A file that was packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) path: String,
    pub(super) digest: [u8; 32],
    pub(super) size: u64,
}

/// A folder to be packed.
pub(super) struct Source<'a> {
    /// None if there is no folder: then its archive is empty.
    pub(super) root: Option<&'a Path>,
    pub(super) excluded: &'a [String],
    pub(super) stop: &'a Stop,
}

/// What was packed.
pub(super) struct Contents {
    /// Sorted by path.
    pub(super) files: Vec<Packed>,
    pub(super) shape: Shape,
    pub(super) gaps: Gaps,
}

/// A folder that was packed.
pub(super) struct Package {
    pub(super) contents: Contents,
    pub(super) archive: Archive,
    pub(super) size: u64,
}

/// Where an archive is.
pub(super) enum Archive {
    /// In a file, at its beginning.
    File(File),
    /// Nowhere: there was no room. It is packed again, without what could not be read.
    Again(Damaged),
}

/// Files that could not be read to their end, and why.
pub(super) type Damaged = BTreeMap<String, String>;

/// Packs a folder into a scratch file, or measures it if there is no room for one.
pub(super) fn package(
    source: &Source<'_>,
    scratch: impl FnOnce() -> guest_common::Result<File>,
) -> Result<Package> {
    let mut damaged = Damaged::new();
    let unmade = |error: &guest_common::Error| log::warn!("no scratch file: {}", chain(error));
    let mut file = scratch().inspect_err(unmade).ok();
    loop {
        let packed = match &file {
            Some(file) => into_file(source, &damaged, file),
            None => measured(source, &damaged),
        };
        match (packed, source.root) {
            (Err(Error::Archive { source }), _) if file.is_some() => {
                log::warn!("an archive is packed while it is sent: no room for it: {source}");
                file = None;
            }
            (Err(Error::Keep { path, source }), Some(root)) if damaged.len() < MOST_DAMAGED => {
                let inner = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                damaged.insert(inner, source.to_string());
            }
            (packed, _) => return packed,
        }
    }
}

fn into_file(source: &Source<'_>, damaged: &Damaged, file: &File) -> Result<Package> {
    let failed = |source| Error::Archive { source };
    let empty = || -> io::Result<File> {
        file.set_len(0)?;
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(file)
    };
    let (contents, mut archive) = pack(source, damaged, empty().map_err(failed)?)?;
    let size = archive.stream_position().map_err(failed)?;
    archive.rewind().map_err(failed)?;
    Ok(Package { contents, archive: Archive::File(archive), size })
}

fn measured(source: &Source<'_>, damaged: &Damaged) -> Result<Package> {
    let (contents, Counter(size)) = pack(source, damaged, Counter(0))?;
    Ok(Package { contents, archive: Archive::Again(damaged.clone()), size })
}

/// Counts bytes.
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

/// Packs a folder. [`Error::Keep`] means a file that could not be read to its end: the archive is
/// spoiled, and is to be packed anew without it.
pub(super) fn pack<W: Write>(
    source: &Source<'_>,
    damaged: &Damaged,
    into: W,
) -> Result<(Contents, W)> {
    let failed = |source| Error::Archive { source };
    let buffer = BufWriter::with_capacity(128 << 10, into);
    let mut tar = Builder::new(GzEncoder::new(buffer, Compression::fast()));
    let mut files: Vec<Packed> = Vec::new();
    let (mut shape, mut gaps) = (ShapeHash::default(), Gaps::default());
    if let Some(root) = source.root {
        walk(root, source.excluded, &mut gaps, &mut |found, gaps| {
            if source.stop.is_given() {
                return Err(Error::Late);
            }
            if let Some(reason) = damaged.get(&found.path) {
                gaps.add(&found.path, reason);
                return Ok(());
            }
            shape.add(&found);
            if found.kind == Kind::File && files.len() == MOST_FILES {
                return Err(Error::TooManyFiles { path: root.to_owned(), most: MOST_FILES });
            }
            files.extend(add(&mut tar, root, found, gaps)?);
            Ok(())
        })?;
    }
    let finish = || {
        let buffer = tar.into_inner()?.finish()?;
        buffer.into_inner().map_err(io::IntoInnerError::into_error)
    };
    let into = finish().map_err(failed)?;
    files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok((Contents { files, shape: shape.shape(&gaps), gaps }, into))
}

/// Adds what was found; returns it if it is a file.
fn add<W: Write>(
    tar: &mut Tar<W>,
    root: &Path,
    found: Found,
    gaps: &mut Gaps,
) -> Result<Option<Packed>> {
    let failed = |source| Error::Archive { source };
    match &found.kind {
        Kind::File => return add_file(tar, root, found, gaps),
        Kind::Folder { .. } => {
            let path = format!("{}/", found.path);
            let mut header = header(&found, EntryType::Directory);
            tar.append_data(&mut header, path, io::empty()).map_err(failed)?;
        }
        Kind::Link { target } => {
            let mut header = header(&found, EntryType::Symlink);
            add_link(tar, &mut header, &found.path, target).map_err(failed)?;
        }
    }
    Ok(None)
}

fn add_file<W: Write>(
    tar: &mut Tar<W>,
    root: &Path,
    found: Found,
    gaps: &mut Gaps,
) -> Result<Option<Packed>> {
    let whole = root.join(&found.path);
    let failed = |source| Error::Keep { path: whole.clone(), source };
    let opened = OpenOptions::new()
        .read(true)
        // What was a file a moment ago: neither followed if it is a link now, nor waited for.
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(&whole)
        .and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            gaps.add(&found.path, error);
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
        return Err(failed(io::Error::other("it became shorter while it was read")));
    }
    Ok(Some(Packed { path: found.path, digest: content.hash.finalize().into(), size }))
}

/// Adds a link with its target as it is: the library would tidy `a//b` up. It may do so with a target
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

/// A manifest of the files, in memory, at its beginning; and its size.
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
    fn a_full_disk_gives_an_archive_that_is_measured_and_packed_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "content").unwrap();
        let stop = Stop::new();
        let source = Source { root: Some(folder.path()), excluded: &[], stop: &stop };
        let full = || Ok(OpenOptions::new().read(true).write(true).open("/dev/full").unwrap());
        let room = || Ok(tempfile::tempfile().unwrap());

        let measured = package(&source, full).unwrap();
        let packed = package(&source, room).unwrap();

        assert!(matches!(&measured.archive, Archive::Again(damaged) if damaged.is_empty()));
        assert_eq!(measured.size, packed.size);
        assert_eq!(measured.contents.files, packed.contents.files);
        let (again, bytes) = pack(&source, &Damaged::new(), Vec::new()).unwrap();
        assert_eq!((bytes.len() as u64, again.files), (packed.size, packed.contents.files));
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_is_a_gap_and_the_rest_is_packed() {
        // Files of sysfs are shorter than they say.
        let sys = Path::new("/sys/kernel");
        let (excluded, stop) = (names_but(sys, "fscaps"), Stop::new());
        let source = Source { root: Some(sys), excluded: &excluded, stop: &stop };

        let package = package(&source, || Ok(tempfile::tempfile().unwrap())).unwrap();

        assert!(package.contents.files.is_empty());
        assert_eq!(
            package.contents.gaps.warnings("w"),
            ["artifact w: fscaps is not kept: it became shorter while it was read"]
        );
    }

    fn names_but(folder: &Path, name: &str) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|other| other != name).collect()
    }
}
