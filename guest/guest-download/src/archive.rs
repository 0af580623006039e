//! A tar archive as a stream of entries: old, ustar, GNU long names and pax, within limits.
//!
//! | type | is |
//! |---|---|
//! | `0`, NUL, `7` | a file; with a `/` at the end of its name in old archives a folder |
//! | `1`, `2`, `5` | a hard link, a symbolic link, a folder |
//! | `L`, `K`, `x` | the name, the link's target, or attributes of the next entry |
//! | `g` | attributes of all that follow: passed over |
//! | `3`, `4`, `6` | a device or a FIFO, which holds no content: skipped with a warning |
//! | all others | refused: what is left out must not look like success |

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicU64, Ordering};

use tar::{EntryType, Header};

use crate::{Error, Result};

const BLOCK: usize = 512;

/// The longest name, or set of attributes, of an entry.
const LONGEST_EXTENSION: u64 = 1 << 20;
/// The longest path, as the kernel has it.
const LONGEST_PATH: usize = 4096;
const MOST_ENTRIES: u64 = 500_000;
const MOST_BYTES: u64 = 64 << 30;
/// How many bytes may come of one, once there are so many that it matters.
const MOST_PER_BYTE: u64 = 250;
const FREE_OF_RATIO: u64 = 64 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
}

/// An entry's head. Its content, if it is a file, is read from the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) mtime: u64,
}

/// An archive that is being read.
pub(crate) struct Archive<'a, R> {
    input: R,
    /// How many compressed bytes it took so far.
    compressed: &'a AtomicU64,
    /// What is left of the current entry's content, and of the block that it ends in.
    content: u64,
    padding: u64,
    entries: u64,
    bytes: u64,
}

/// What comes before an entry's own head.
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

    /// The next entry; none at the archive's end, which is then read through.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return self.finish() };
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return Err(Error::TooLarge { limit: MOST_ENTRIES, unit: "entries" });
            }
            let size = header.entry_size().map_err(|_| broken("a size is no number"))?;
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.name(size)?),
                EntryType::GNULongLink => extension.link = Some(self.name(size)?),
                EntryType::XHeader => self.attributes(size, &mut extension)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                EntryType::Char | EntryType::Block | EntryType::Fifo => {
                    let extension = std::mem::take(&mut extension);
                    let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
                    log::warn!("a device or FIFO is skipped; path={:?}", lossy(&path));
                }
                kind => return self.entry(&header, kind, size, extension).map(Some),
            }
        }
    }

    /// Hands the current entry's content to `write`, piece by piece.
    pub(crate) fn content(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        while self.content > 0 {
            let piece = self.input.fill_buf().map_err(read_error)?;
            let count = piece.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(cut());
            }
            if let Err(error) = write(&piece[..count]) {
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
        let refused = |reason| Error::Refused { path: lossy(&path), reason };
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::HardLink(link),
            EntryType::GNUSparse => return Err(refused("is sparse, which is not supported")),
            _ => return Err(refused("is of an unknown type")),
        };
        if path.len() > LONGEST_PATH {
            return Err(refused("has a path that is too long"));
        }
        // Some writers state the size of the file behind a link, without its content.
        let size = if kind == Kind::File { extension.size.unwrap_or(size) } else { 0 };
        self.expect(size)?;
        let mode = header.mode().map_err(|_| broken("a mode is no number"))?;
        Ok(Entry { path, kind, mode, mtime: header.mtime().unwrap_or(0) })
    }

    /// The next block as a head; none for the end.
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
            return Err(broken("it is no tar archive, or a checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads what comes after the end, so that the compression's own checksum is checked.
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
            let (key, value, after) = record(rest).ok_or(broken("attributes make no sense"))?;
            match key {
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    extension.size = Some(size.ok_or(broken("a size is no number"))?);
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
        if size > LONGEST_EXTENSION {
            return Err(broken("a name or the attributes of an entry are too long"));
        }
        self.expect(size)?;
        let mut bytes = Vec::new();
        let taken = self.content(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        taken.map_err(read_error)?;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        if size > MOST_BYTES {
            return Err(Error::TooLarge { limit: MOST_BYTES, unit: "bytes" });
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        self.content += std::mem::take(&mut self.padding);
        // Whoever takes the bytes does not fail.
        self.content(|_| Ok(()))?.map_err(read_error)
    }

    fn account(&mut self, count: u64) -> Result<()> {
        self.bytes += count;
        if self.bytes > MOST_BYTES {
            return Err(Error::TooLarge { limit: MOST_BYTES, unit: "bytes" });
        }
        let compressed = self.compressed.load(Ordering::Relaxed);
        if self.bytes > FREE_OF_RATIO && self.bytes / MOST_PER_BYTE > compressed {
            return Err(Error::TooLarge {
                limit: MOST_PER_BYTE,
                unit: "bytes for each of its own",
            });
        }
        Ok(())
    }
}

/// A pax record, `LENGTH KEY=VALUE\n`, and what comes after it.
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

fn cut() -> Error {
    read_error(io::ErrorKind::UnexpectedEof.into())
}

fn read_error(source: io::Error) -> Error {
    Error::Read { source }
}
