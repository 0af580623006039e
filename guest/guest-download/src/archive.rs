//! A streaming reader of tar archives with limits: v7, ustar, GNU long names and pax.
//!
//! | type flag | entry |
//! |---|---|
//! | `0`, NUL, `7` | a file; in v7 archives a folder if its name ends with `/` |
//! | `1`, `2`, `5` | a hard link, a symbolic link, a folder |
//! | `L`, `K`, `x` | the name, link target or attributes of the next entry |
//! | `g` | global attributes: ignored |
//! | `3`, `4`, `6` | a device or a FIFO: skipped with a warning, since it has no content |
//! | all others | rejected: skipping content must not look like success |

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicU64, Ordering};

use tar::{EntryType, Header};

use crate::{Error, Result};

const BLOCK: usize = 512;

/// The longest name or set of attributes of an entry.
const MAX_EXTENSION: u64 = 1 << 20;
/// `PATH_MAX` of the kernel.
const MAX_PATH: usize = 4096;
const MAX_ENTRIES: u64 = 500_000;
const MAX_BYTES: u64 = 64 << 30;
/// The highest compression ratio, checked once the archive exceeds `RATIO_EXEMPT` bytes.
const MAX_RATIO: u64 = 250;
const RATIO_EXEMPT: u64 = 64 << 20;

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Folder,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
}

/// An entry's metadata. The content of a file follows with [`Archive::content`].
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) mtime: u64,
}

/// A reader of an archive.
pub(crate) struct Archive<'a, R> {
    input: R,
    /// The number of compressed bytes that were read.
    compressed: &'a AtomicU64,
    /// The unread bytes of the current entry's content, and the padding after it.
    content: u64,
    padding: u64,
    entries: u64,
    bytes: u64,
}

/// Overrides of an entry's header, from the extension entries before it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(crate) fn new(input: R, compressed: &'a AtomicU64) -> Self {
        Self { input, compressed, content: 0, padding: 0, entries: 0, bytes: 0 }
    }

    /// The next entry. At the end of the archive reads the rest of the stream and returns `None`.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return self.finish() };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Error::TooLarge { limit: MAX_ENTRIES, unit: "entries" });
            }
            let size = header.entry_size().map_err(|_| broken("a size is not a number"))?;
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.name(size)?),
                EntryType::GNULongLink => extension.link = Some(self.name(size)?),
                EntryType::XHeader => self.attributes(size, &mut extension)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                EntryType::Char | EntryType::Block | EntryType::Fifo => {
                    let extension = std::mem::take(&mut extension);
                    let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
                    log::warn!("skipping a device or FIFO; path={:?}", lossy(&path));
                }
                kind => return self.entry(&header, kind, size, extension).map(Some),
            }
        }
    }

    /// Passes the current entry's content to `write` in chunks. The inner result is that of `write`.
    pub(crate) fn content(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        while self.content > 0 {
            let chunk = self.input.fill_buf().map_err(read_error)?;
            let count = chunk.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(truncated());
            }
            if let Err(error) = write(&chunk[..count]) {
                return Ok(Err(error));
            }
            self.input.consume(count);
            self.content -= count as u64;
            self.account(count as u64)?;
        }
        Ok(Ok(()))
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extension: Extension,
    ) -> Result<Entry> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || header.link_name_bytes().unwrap_or_default().into_owned();
        let link = extension.link.unwrap_or_else(link);
        let rejected = |reason| Error::Rejected { path: lossy(&path), reason };
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => EntryKind::Folder,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Folder,
            EntryType::Symlink => EntryKind::Symlink(link),
            EntryType::Link => EntryKind::HardLink(link),
            EntryType::GNUSparse => return Err(rejected("is sparse, which is not supported")),
            _ => return Err(rejected("has an unknown type")),
        };
        if path.len() > MAX_PATH {
            return Err(rejected("has a path that is too long"));
        }
        // Some writers give a link the size of its target, without content.
        let size = if kind == EntryKind::File { extension.size.unwrap_or(size) } else { 0 };
        self.expect(size)?;
        let mode = header.mode().map_err(|_| broken("a mode is not a number"))?;
        Ok(Entry { path, kind, mode, mtime: header.mtime().unwrap_or(0) })
    }

    /// The next block as a header. `None` for a zero block, which ends the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        self.input.read_exact(&mut block).map_err(read_error)?;
        self.account(BLOCK as u64)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = (0..BLOCK)
            .map(|at| if (148..156).contains(&at) { 32 } else { u32::from(block[at]) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(broken("it is not a tar archive, or a checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads to the end of the stream, so that the decoder verifies its checksum.
    fn finish(&mut self) -> Result<Option<Entry>> {
        loop {
            let count = self.input.fill_buf().map_err(read_error)?.len();
            if count == 0 {
                return Ok(None);
            }
            self.input.consume(count);
            self.account(count as u64)?;
        }
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.extension(size)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn attributes(&mut self, size: u64, extension: &mut Extension) -> Result<()> {
        let records = self.extension(size)?;
        let mut rest = &records[..];
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or(broken("attributes are invalid"))?;
            match key {
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    extension.size = Some(size.ok_or(broken("a size is not a number"))?);
                }
                _ if key.starts_with(b"GNU.sparse") => {
                    return Err(broken("it has sparse files, which are not supported"));
                }
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(broken("a name or the attributes of an entry are too long"));
        }
        self.expect(size)?;
        let mut bytes = Vec::new();
        let collected = self.content(|chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        collected.map_err(read_error)?;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        if size > MAX_BYTES {
            return Err(Error::TooLarge { limit: MAX_BYTES, unit: "bytes" });
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        self.content += std::mem::take(&mut self.padding);
        // This closure cannot fail.
        self.content(|_| Ok(()))?.map_err(read_error)
    }

    fn account(&mut self, count: u64) -> Result<()> {
        self.bytes += count;
        if self.bytes > MAX_BYTES {
            return Err(Error::TooLarge { limit: MAX_BYTES, unit: "bytes" });
        }
        let compressed = self.compressed.load(Ordering::Relaxed);
        if self.bytes > RATIO_EXEMPT && self.bytes / MAX_RATIO > compressed {
            return Err(Error::TooLarge {
                limit: MAX_RATIO,
                unit: "bytes for each compressed byte",
            });
        }
        Ok(())
    }
}

/// Splits a pax record, `LENGTH KEY=VALUE\n`, into key, value and the bytes after it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(10).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, after) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], after))
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

fn broken(reason: &'static str) -> Error {
    Error::Broken { reason }
}

fn truncated() -> Error {
    read_error(io::ErrorKind::UnexpectedEof.into())
}

fn read_error(source: io::Error) -> Error {
    Error::Read { source }
}
