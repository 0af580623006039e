//! The files of an image layout by name, in a folder or an archive, and readers that verify them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::compress::{self, Format};
use crate::digest::Hashing;
use crate::error::{Error, Result};
use crate::members::{Archive, Kind};

/// The size limit of a JSON document.
const DOCUMENT_LIMIT: u64 = 4 << 20;
/// The size limit of a decompressed archive.
const ARCHIVE_LIMIT: u64 = 64 << 30;
/// The maximum number of files of a layout.
const FILES_LIMIT: usize = 100_000;

/// A file of the layout, with its expected digest and size.
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) digest: String,
    pub(super) size: Option<u64>,
    pub(super) hashed: Hashed,
}

/// The content that a digest covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hashed {
    /// The file as stored.
    Stored,
    /// The decompressed content.
    Unpacked,
}

pub(super) struct Blobs {
    path: PathBuf,
    place: Place,
}

enum Place {
    Directory(File),
    /// Offset and length of each file in the archive.
    Archive {
        file: File,
        index: HashMap<String, (u64, u64)>,
    },
}

impl Blobs {
    /// Opens a folder or an archive; a compressed one is decompressed to `scratch`.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Blobs> {
        let file =
            File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let place = if path.is_dir() {
            Place::Directory(file)
        } else {
            let file = decompressed(file, path, scratch)?;
            let index = index(&file, path)?;
            Place::Archive { file, index }
        };
        Ok(Blobs { path: path.to_owned(), place })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).is_ok()
    }

    /// Reads a JSON document without a digest.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        compress::read_bounded(self.file(name)?, DOCUMENT_LIMIT)
            .map_err(|source| self.unreadable(name, source))
    }

    pub(super) fn reader<'a>(&'a self, reference: &'a Reference) -> Result<Blob<'a>> {
        let file = self.file(&reference.name)?;
        let hashed: Box<dyn Read + 'a> = match reference.hashed {
            Hashed::Stored => file,
            Hashed::Unpacked => compress::reader(file, &reference.name)?,
        };
        Ok(Blob { blobs: self, reference, inner: Hashing::new(hashed) })
    }

    /// The hex part of a digest, which is a safe file name.
    pub(super) fn sha256<'d>(&self, digest: &'d str) -> Result<&'d str> {
        digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64)
            .filter(|hex| hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')))
            .ok_or_else(|| self.bad(format!("has a digest that is no sha256: {digest:.80}")))
    }

    pub(super) fn bad(&self, what: String) -> Error {
        Error::BadImage { path: self.path.clone(), what }
    }

    fn unreadable(&self, name: &str, source: io::Error) -> Error {
        Error::ReadMember { member: format!("{} of {}", name, self.path.display()), source }
    }

    fn file(&self, name: &str) -> Result<Box<dyn Read + '_>> {
        let name = name.trim_start_matches("./");
        let file: io::Result<Box<dyn Read>> = match &self.place {
            Place::Directory(directory) => open_beneath(directory, name).map(|f| Box::new(f) as _),
            Place::Archive { file, index } => match index.get(name) {
                None => Err(io::ErrorKind::NotFound.into()),
                Some((offset, length)) => {
                    let mut file = file;
                    file.seek(SeekFrom::Start(*offset)).map(|_| Box::new(file.take(*length)) as _)
                }
            },
        };
        file.map_err(|source| self.unreadable(name, source))
    }
}

/// A reader of a blob; `verify` must follow.
pub(super) struct Blob<'a> {
    blobs: &'a Blobs,
    reference: &'a Reference,
    inner: Hashing<Box<dyn Read + 'a>>,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Blob<'_> {
    pub(super) fn read_document(&mut self) -> Result<Vec<u8>> {
        compress::read_bounded(&mut self.inner, DOCUMENT_LIMIT)
            .map_err(|source| self.blobs.unreadable(&self.reference.name, source))
    }

    /// Reads the rest, and compares digest and size with the expected ones.
    pub(super) fn verify(mut self) -> Result<()> {
        let Reference { name, digest, size, .. } = self.reference;
        self.inner.drain().map_err(|source| self.blobs.unreadable(name, source))?;
        let (found, length) = self.inner.finish();
        if found != *digest || size.is_some_and(|size| size != length) {
            return Err(self.blobs.bad(format!("is damaged: {name} is not what its digest says")));
        }
        Ok(())
    }
}

/// Opens a regular file of the layout. Links out of the layout are not followed.
fn open_beneath(directory: &File, name: &str) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(directory, name, how)?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(file)
}

/// The file, or a decompressed copy.
fn decompressed(mut file: File, path: &Path, scratch: &Path) -> Result<File> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut head = Vec::new();
    file.by_ref().take(6).read_to_end(&mut head).map_err(fail)?;
    file.rewind().map_err(fail)?;
    if compress::detect(&head) == Format::Plain {
        return Ok(file);
    }
    let unwritable = |source| Error::Write { path: scratch.to_owned(), source };
    let mut copy = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scratch)
        .map_err(unwritable)?;
    let reader = compress::reader(file, &path.display().to_string())?;
    let length = io::copy(&mut reader.take(ARCHIVE_LIMIT + 1), &mut copy).map_err(unwritable)?;
    if length > ARCHIVE_LIMIT {
        return Err(Error::TooLarge { what: "bytes of the archive", limit: ARCHIVE_LIMIT });
    }
    Ok(copy)
}

/// The maximum length of a chain of links.
const MOST_LINKS: usize = 8;

/// The offset of each file in the archive. `docker save` writes links between equal layers.
fn index(mut file: &File, path: &Path) -> Result<HashMap<String, (u64, u64)>> {
    file.rewind().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mut archive = Archive::new(file, &path.display().to_string());
    let (mut index, mut links) = (HashMap::new(), HashMap::new());
    while let Some(member) = archive.next_member()? {
        if index.len() + links.len() >= FILES_LIMIT {
            let limit = FILES_LIMIT as u64;
            return Err(Error::TooLarge { what: "files in the image", limit });
        }
        let Ok(name) = String::from_utf8(member.path) else { continue };
        let name = name.trim_start_matches("./").to_owned();
        match member.kind {
            Kind::File => drop(index.insert(name, (archive.position(), member.size))),
            Kind::HardLink(target) => drop(links.insert(name, text(&target))),
            Kind::Symlink(target) => {
                let target = resolve(&name, &text(&target));
                links.insert(name, target);
            }
            Kind::Directory | Kind::Fifo | Kind::Device => {}
        }
    }
    for name in links.keys() {
        let mut target = name;
        for _ in 0..MOST_LINKS {
            target = links.get(target).unwrap_or(target);
        }
        if let Some(place) = index.get(target).copied() {
            index.entry(name.clone()).or_insert(place);
        }
    }
    Ok(index)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_start_matches("./").to_owned()
}

/// The name of a link's target in the archive.
fn resolve(link: &str, target: &str) -> String {
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
