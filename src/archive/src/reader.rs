//! A streaming reader of tar archives with limits: v7, ustar, GNU long names and pax.
//!
//! | type flag | entry |
//! |---|---|
//! | `0`, NUL, `7` | a file; a folder if its name ends with `/` |
//! | `1`, `2`, `5` | a hard link, a symbolic link, a folder |
//! | `3`, `4`, `6` | a device or a FIFO |
//! | `L`, `K`, `x` | the name, link target or attributes of the next entry |
//! | `g` | global attributes: ignored |
//! | `S`, all others | an error: skipped content must not look like success |

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use tar::{EntryType, Header};

use crate::entry::{entry, size};
use crate::extension::Extension;
use crate::{Entry, Error, Limits, Result};

const BLOCK: u64 = 512;

/// A reader of an archive. Each entry's content is read with [`Reader::chunk`] or [`Reader::body`]
/// before the next entry, or skipped.
pub struct Reader<'a, R> {
    input: R,
    limits: Limits,
    /// The number of compressed bytes that were read so far.
    compressed: Option<&'a AtomicU64>,
    /// Bytes of the archive that were read.
    position: u64,
    /// The unread bytes of the current entry's content, and the padding after it.
    content: u64,
    padding: u64,
    entries: u64,
    /// Bytes of content, up to the end of the current entry.
    bytes: u64,
}

impl<'a, R: BufRead> Reader<'a, R> {
    /// Reads an uncompressed archive.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            compressed: None,
            position: 0,
            content: 0,
            padding: 0,
            entries: 0,
            bytes: 0,
        }
    }

    /// Reads an archive while it is decompressed. `compressed` counts the bytes before decompression,
    /// for [`Limits::ratio`].
    pub fn decompressed(input: R, limits: Limits, compressed: &'a AtomicU64) -> Self {
        Self { compressed: Some(compressed), ..Self::new(input, limits) }
    }

    /// The next entry, or `None` at the archive's end mark.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        let mut room = self.limits.extension;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = size(&header, &extension)?;
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.name(size, &mut room)?),
                EntryType::GNULongLink => extension.link = Some(self.name(size, &mut room)?),
                EntryType::XHeader => extension.read(&self.extension(size, &mut room)?)?,
                EntryType::XGlobalHeader => drop(self.extension(size, &mut room)?),
                _ => {
                    self.count(size)?;
                    let entry = entry(&header, extension, size, &self.limits)?;
                    self.expect(size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next bytes of the current entry's content; empty at its end. [`Reader::consume`] takes them.
    pub fn chunk(&mut self) -> Result<&[u8]> {
        if self.content == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf().map_err(read_error)?;
        let count = chunk.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        if count == 0 {
            return Err(read_error(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(&chunk[..count])
    }

    /// Takes `count` bytes of the last chunk.
    pub fn consume(&mut self, count: usize) -> Result<()> {
        let count = count.min(usize::try_from(self.content).unwrap_or(usize::MAX));
        self.input.consume(count);
        self.content -= count as u64;
        self.advance(count as u64)
    }

    /// The current entry's content.
    pub fn body(&mut self) -> Body<'_, 'a, R> {
        Body(self)
    }

    /// The position in the archive at which the current entry's content continues.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Reads to the end of the stream, so that a decoder verifies its checksum.
    pub fn finish(mut self) -> Result<()> {
        loop {
            let count = self.input.fill_buf().map_err(read_error)?.len();
            if count == 0 {
                return Ok(());
            }
            self.input.consume(count);
            self.advance(count as u64)?;
            self.count_bytes(count as u64)?;
        }
    }

    /// The next block as a header. `None` for a zero block, which ends the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK as usize];
        self.input.read_exact(&mut block).map_err(read_error)?;
        self.advance(BLOCK)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let field: u32 = header.as_old().cksum.iter().map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum - field + 8 * u32::from(b' ')) {
            return Err(Error::Checksum { position: self.position - BLOCK });
        }
        Ok(Some(header))
    }

    fn name(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>> {
        let mut name = self.extension(size, room)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// The content of an extension header. `room` is what the entry has left for these.
    fn extension(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>> {
        let left = size.checked_add(BLOCK).and_then(|cost| room.checked_sub(cost));
        *room = left.ok_or(Error::Extension { limit: self.limits.extension })?;
        self.expect(size);
        let mut bytes = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(chunk);
            let count = chunk.len();
            self.consume(count)?;
        }
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn skip_rest(&mut self) -> Result<()> {
        loop {
            let count = self.chunk()?.len();
            self.consume(count)?;
            if self.content == 0 {
                self.content = std::mem::take(&mut self.padding);
                if self.content == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Counts an entry before its content is read.
    fn count(&mut self, size: u64) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let what = "files, folders and links";
            return Err(Error::TooLarge { limit: self.limits.entries, what });
        }
        self.count_bytes(size)
    }

    fn count_bytes(&mut self, count: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > self.limits.bytes {
            return Err(Error::TooLarge { limit: self.limits.bytes, what: "bytes" });
        }
        Ok(())
    }

    fn advance(&mut self, count: u64) -> Result<()> {
        self.position += count;
        let Some(compressed) = self.compressed else { return Ok(()) };
        let Limits { ratio, ratio_exempt, .. } = self.limits;
        let is_bomb = self.position > ratio_exempt
            && self.position / ratio.max(1) > compressed.load(Ordering::Relaxed);
        if is_bomb {
            return Err(Error::TooLarge { limit: ratio, what: "bytes for each compressed byte" });
        }
        Ok(())
    }
}

/// Reads to the end of one entry's content; the archive ending before that is an error.
pub struct Body<'r, 'a, R>(&'r mut Reader<'a, R>);

impl<R: BufRead> Read for Body<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        if reader.content == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let room = usize::try_from(reader.content).unwrap_or(usize::MAX).min(buffer.len());
        let count = reader.input.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.content -= count as u64;
        reader.advance(count as u64).map_err(io::Error::other)?;
        Ok(count)
    }
}

fn read_error(source: io::Error) -> Error {
    Error::Read { source }
}

#[cfg(test)]
mod tests;
