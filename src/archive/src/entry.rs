//! One entry of an archive, without its content.

use std::io;

use tar::{EntryType, Header};

use crate::extension::Extension;
use crate::{Error, Limits, Result};

/// An entry of an archive. All of it is untrusted: the path may be absolute or contain `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is in the archive.
    pub path: Vec<u8>,
    /// Its kind.
    pub kind: EntryKind,
    /// Permissions, setuid, setgid and sticky.
    pub mode: u32,
    /// The owner; 0 if the archive does not say.
    pub uid: u32,
    /// The group; 0 if the archive does not say.
    pub gid: u32,
    /// Seconds since 1970; 0 for times before.
    pub mtime: u64,
    /// The length of the content; 0 for all but files.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// The kind of an entry; links with their targets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    Device,
}

/// The number of bytes that follow a header.
pub(crate) fn size(header: &Header, extension: &Extension) -> Result<u64> {
    match header.entry_type() {
        // Nothing follows these. Some writers give a link the size of its target.
        EntryType::Directory
        | EntryType::Symlink
        | EntryType::Link
        | EntryType::Fifo
        | EntryType::Char
        | EntryType::Block => Ok(0),
        EntryType::Regular | EntryType::Continuous if extension.size.is_some() => {
            Ok(extension.size.unwrap_or_default())
        }
        _ => header.entry_size().map_err(|_| Error::Number),
    }
}

/// The entry of a header and the extension headers before it.
pub(crate) fn entry(
    header: &Header,
    extension: Extension,
    size: u64,
    limits: &Limits,
) -> Result<Entry> {
    let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || header.link_name_bytes().unwrap_or_default().into_owned();
    let link = extension.link.unwrap_or_else(link);
    if path.len() > limits.path || link.len() > limits.path {
        return Err(Error::PathTooLong { path: crate::error::lossy(&path), limit: limits.path });
    }
    let kind = match header.entry_type() {
        // In v7 archives a folder is a file whose name ends with a slash.
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => EntryKind::Directory,
        EntryType::Regular | EntryType::Continuous => EntryKind::File,
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Symlink(link),
        EntryType::Link => EntryKind::HardLink(link),
        EntryType::Fifo => EntryKind::Fifo,
        EntryType::Char | EntryType::Block => EntryKind::Device,
        EntryType::GNUSparse => return Err(Error::Sparse),
        other => return Err(Error::Type { kind: other.as_byte() }),
    };
    let old = header.as_old();
    let id = |pax: Option<u64>, parsed: io::Result<u64>, field: &[u8]| {
        let id = pax.map_or_else(|| unless_blank(parsed, field), Ok)?;
        u32::try_from(id).map_err(|_| Error::Number)
    };
    let mode = unless_blank(header.mode().map(u64::from), &old.mode)?;
    let mtime = || unless_blank(header.mtime(), &old.mtime);
    Ok(Entry {
        path,
        kind,
        mode: (mode & 0o7777) as u32,
        uid: id(extension.uid, header.uid(), &old.uid)?,
        gid: id(extension.gid, header.gid(), &old.gid)?,
        mtime: extension.mtime.map_or_else(mtime, Ok)?,
        size,
        xattrs: extension.xattrs,
    })
}

/// A number of a header; some writers leave a zero blank.
fn unless_blank(parsed: io::Result<u64>, field: &[u8]) -> Result<u64> {
    let is_blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if is_blank { Ok(0) } else { parsed.map_err(|_| Error::Number) }
}
