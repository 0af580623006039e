//! Writes a `.tar.gz` and hashes its files in the same pass, so that both agree.
//!
//! The same entries in the same order give the same bytes: headers hold kind, mode and time, and no owner.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{Error, Result};

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Its path in the archive.
    pub path: String,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
    /// Its length in bytes.
    pub size: u64,
}

/// Writes an archive, compressed with gzip.
pub struct Packer<W: Write> {
    tar: Builder<GzEncoder<W>>,
}

impl<W: Write> Packer<W> {
    /// Begins an archive.
    pub fn new(into: W) -> Self {
        Self { tar: Builder::new(GzEncoder::new(into, Compression::fast())) }
    }

    /// Adds a folder, without its content.
    pub fn directory(&mut self, path: &str, metadata: &Metadata) -> Result<()> {
        let mut header = header(metadata, EntryType::Directory, 0);
        self.tar.append_data(&mut header, format!("{path}/"), io::empty()).map_err(write_error)
    }

    /// Adds a symbolic link with its exact target: the library would normalize `a//b`, and still does for a
    /// target that does not fit into the header.
    pub fn symlink(&mut self, path: &str, target: &Path, metadata: &Metadata) -> Result<()> {
        let mut header = header(metadata, EntryType::Symlink, 0);
        let bytes = target.as_os_str().as_bytes();
        if bytes.len() > header.as_old().linkname.len() {
            return self.tar.append_link(&mut header, path, target).map_err(write_error);
        }
        header
            .set_link_name_literal(bytes)
            .and_then(|()| self.tar.append_data(&mut header, path, io::empty()))
            .map_err(write_error)
    }

    /// Adds an open file. If it is truncated meanwhile, or cannot be read ([`Error::Truncated`],
    /// [`Error::ReadSource`]), the archive is unusable.
    pub fn file(
        &mut self,
        path: &str,
        content: impl Read,
        metadata: &Metadata,
    ) -> Result<PackedFile> {
        let size = metadata.len();
        self.add_file(path, content, header(metadata, EntryType::Regular, size), size)
    }

    /// Adds a file with this content and mode 0644; its time is that of `metadata`.
    pub fn text(&mut self, path: &str, text: &str, metadata: &Metadata) -> Result<PackedFile> {
        let size = text.len() as u64;
        let mut header = header(metadata, EntryType::Regular, size);
        header.set_mode(0o644);
        self.add_file(path, text.as_bytes(), header, size)
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W> {
        self.tar.into_inner().and_then(GzEncoder::finish).map_err(write_error)
    }

    fn add_file(
        &mut self,
        path: &str,
        content: impl Read,
        mut header: Header,
        size: u64,
    ) -> Result<PackedFile> {
        let inner = content.take(size);
        let mut content = Hashing { inner, hash: Sha256::new(), count: 0, error: None };
        let added = self.tar.append_data(&mut header, path, &mut content);
        match (added, content.error) {
            (_, Some(source)) => Err(Error::ReadSource { source }),
            (Err(source), None) => Err(write_error(source)),
            (Ok(()), None) if content.count != size => Err(Error::Truncated),
            (Ok(()), None) => Ok(PackedFile {
                path: path.to_owned(),
                digest: content.hash.finalize().into(),
                size,
            }),
        }
    }
}

/// Opens a file to pack. The path may have become a link or a pipe: neither is followed or waited for.
pub fn open_source(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn header(metadata: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(size);
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
            // The library reads again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

fn write_error(source: io::Error) -> Error {
    Error::Write { source }
}
