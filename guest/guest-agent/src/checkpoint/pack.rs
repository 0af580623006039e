//! Packs a folder into a `.tar.gz` and hashes its files in the same pass, so that both agree.
//!
//! The archive is a scratch file of the run. If the disk has no room for it, a first pass only measures
//! it and a second packs it while it is uploaded: the processes that could change the folder have ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write};
use std::path::Path;

use archive::{Descend, PackedFile, Packer, Visitor, WalkEntry, WalkKind, open_source, walk};
use base::error::chain;
use nix::sys::memfd::{MFdFlags, memfd_create};
use platform_client::RequestCancellation;

use super::omission::Omissions;
use super::shape::{Shape, ShapeHash};
use crate::{Error, Result};

/// The most files of an artifact.
const MAX_FILES: usize = 50_000;

/// How often packing restarts because a file could not be read to its end.
const MAX_UNREADABLE: usize = 16;

/// A folder to pack.
pub(super) struct Source<'a> {
    /// `None` makes an empty archive.
    pub(super) root: Option<&'a Path>,
    pub(super) excluded: &'a [String],
    pub(super) stop: &'a RequestCancellation,
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

/// Packs a folder. [`Error::ReadFile`] names a file that could not be read to its end: the archive is
/// unusable and must be packed again without that file.
pub(super) fn pack<W: Write>(
    source: &Source<'_>,
    unreadable: &Unreadable,
    into: W,
) -> Result<(Contents, W)> {
    let buffer = BufWriter::with_capacity(128 << 10, into);
    let mut packing = Packing {
        stop: source.stop,
        root: source.root.unwrap_or(Path::new("")),
        unreadable,
        packer: Packer::new(buffer),
        files: Vec::new(),
        shape: ShapeHash::default(),
        omissions: Omissions::default(),
    };
    if let Some(root) = source.root {
        walk(root, source.excluded, &mut packing)?;
    }
    let Packing { packer, mut files, shape, omissions, .. } = packing;
    let into = packer.finish().map_err(archive_error)?.into_inner();
    let into = into.map_err(|error| Error::Archive { source: error.into_error() })?;
    files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok((Contents { files, shape: shape.shape(&omissions), omissions }, into))
}

/// Packs what a walk finds.
struct Packing<'a, W: Write> {
    stop: &'a RequestCancellation,
    root: &'a Path,
    unreadable: &'a Unreadable,
    packer: Packer<W>,
    files: Vec<PackedFile>,
    shape: ShapeHash,
    omissions: Omissions,
}

impl<W: Write> Visitor for Packing<'_, W> {
    type Error = Error;

    fn entry(&mut self, found: WalkEntry) -> Result<Descend> {
        if self.stop.is_cancelled() {
            return Err(Error::Timeout);
        }
        if let Some(reason) = self.unreadable.get(&found.path) {
            self.omissions.add(&found.path, reason);
            return Ok(Descend::Yes);
        }
        self.shape.add(&found);
        match &found.kind {
            WalkKind::File => self.file(found)?,
            WalkKind::Folder { .. } => {
                self.packer.directory(&found.path, &found.metadata).map_err(archive_error)?;
            }
            WalkKind::Link { target } => {
                let added = self.packer.symlink(&found.path, target, &found.metadata);
                added.map_err(archive_error)?;
            }
        }
        Ok(Descend::Yes)
    }

    fn unreadable(&mut self, path: &Path, reason: archive::Unreadable) -> Result<()> {
        self.omissions.unreadable(path, &reason);
        Ok(())
    }
}

impl<W: Write> Packing<'_, W> {
    fn file(&mut self, found: WalkEntry) -> Result<()> {
        if self.files.len() == MAX_FILES {
            return Err(Error::TooManyFiles { path: self.root.to_owned(), max: MAX_FILES });
        }
        let whole = self.root.join(&found.path);
        let opened = open_source(&whole).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.omissions.add(&found.path, error);
                return Ok(());
            }
        };
        let packed =
            self.packer.file(&found.path, file, &metadata).map_err(|error| match error {
                archive::Error::ReadSource { source } => Error::ReadFile { path: whole, source },
                archive::Error::Truncated => {
                    Error::ReadFile { path: whole, source: io::Error::other(error) }
                }
                error => archive_error(error),
            })?;
        self.files.push(packed);
        Ok(())
    }
}

fn archive_error(error: archive::Error) -> Error {
    match error {
        archive::Error::Write { source } => Error::Archive { source },
        other => Error::Archive { source: io::Error::other(other) },
    }
}

/// The JSON manifest of the files in a memfd, positioned at its beginning, and its size.
pub(super) fn manifest(files: &[serde_json::Value]) -> io::Result<(File, u64)> {
    let manifest = serde_json::json!({
        "version": 1,
        "files": files,
        "createdAt": base::date::iso_now(),
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
    use std::fs::{self, OpenOptions};

    use super::*;

    #[test]
    fn on_a_full_disk_an_archive_is_measured_and_packed_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "content").unwrap();
        let stop = RequestCancellation::new();
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
        let (excluded, stop) = (names_but(sys, "fscaps"), RequestCancellation::new());
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
