//! Reads tar archives: ustar, GNU long names and PAX records.
//!
//! Archives are untrusted. Headers are checked, extension records are bounded,
//! and an archive that ends early is an error, never a shorter archive. Sparse
//! files are refused, since their content would come out wrong.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::compress;
use crate::error::{ArchiveFault, Error, Result};

const BLOCK: u64 = 512;
/// The most that all long names and PAX records of one member may have.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// One file of an archive, without its bytes.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; nothing of it is to be trusted")]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub size: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What a member is; links with what they hold.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    Device,
}

/// Reads members one after the other; each one's bytes are read through `body`
/// before the next is asked for, or skipped.
pub struct Archive<R> {
    inner: R,
    name: String,
    position: u64,
    /// What is left of the current member's bytes, and of its padding.
    body: u64,
    padding: u64,
}

/// What extension headers say about the member after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl<'a> Archive<Box<dyn Read + 'a>> {
    /// Of one that may be compressed, which is seen by its first bytes. `name` is for errors.
    pub fn decompress(inner: impl Read + 'a, name: &str) -> Result<Self> {
        Ok(Self::new(compress::reader(inner, name)?, name))
    }
}

impl<R: Read> Archive<R> {
    /// Of one that is not compressed. `name` is for errors.
    pub fn new(inner: R, name: &str) -> Archive<R> {
        Archive { inner, name: name.to_owned(), position: 0, body: 0, padding: 0 }
    }

    /// The next member, or `None` at the archive's end mark.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.advance().map_err(|source| Error::BadArchive { archive: self.name.clone(), source })
    }

    /// The current member's bytes.
    pub fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    /// Where in the archive the current member's bytes begin.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn advance(&mut self) -> std::result::Result<Option<Member>, ArchiveFault> {
        let mut extension = Extension::default();
        let mut room = EXTENSION_LIMIT;
        loop {
            self.skip(self.body)?;
            self.skip(self.padding)?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = match header.entry_type() {
                // Nothing follows these, whatever their size field says.
                EntryType::Directory
                | EntryType::Symlink
                | EntryType::Link
                | EntryType::Fifo
                | EntryType::Char
                | EntryType::Block => 0,
                EntryType::Regular | EntryType::Continuous => {
                    extension.size.map_or_else(|| header.entry_size(), Ok)?
                }
                _ => header.entry_size()?,
            };
            self.body = size;
            self.padding = (BLOCK - size % BLOCK) % BLOCK;
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.long_name(&mut room)?),
                EntryType::GNULongLink => extension.link = Some(self.long_name(&mut room)?),
                EntryType::XHeader => extension.read(&self.extension(&mut room)?)?,
                EntryType::XGlobalHeader => {}
                _ => return extension.member(&header, size).map(Some),
            }
        }
    }

    /// The next header, or `None` for a block of zeros.
    fn header(&mut self) -> std::result::Result<Option<Header>, ArchiveFault> {
        let mut block = [0; BLOCK as usize];
        self.inner.read_exact(&mut block)?;
        self.position += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let field: u32 = header.as_old().cksum.iter().map(|byte| u32::from(*byte)).sum();
        if header.cksum()? != sum - field + 8 * u32::from(b' ') {
            return Err(ArchiveFault::Checksum { position: self.position - BLOCK });
        }
        Ok(Some(header))
    }

    fn long_name(&mut self, room: &mut u64) -> std::result::Result<Vec<u8>, ArchiveFault> {
        let mut name = self.extension(room)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// The body of a header that extends the next one. `room` is what a member has left for
    /// these: any number of them may come before it.
    fn extension(&mut self, room: &mut u64) -> std::result::Result<Vec<u8>, ArchiveFault> {
        let left = room.checked_sub(self.body);
        *room = left.ok_or(ArchiveFault::Extension { size: self.body })?;
        let mut bytes = Vec::new();
        self.body().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.inner.by_ref().take(count), &mut io::sink())?;
        self.position += skipped;
        if skipped < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Reads to the end of one member; the archive ending before that is an error.
pub struct Body<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let archive = &mut *self.0;
        if archive.body == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = archive.inner.by_ref().take(archive.body).read(buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        archive.body -= count as u64;
        archive.position += count as u64;
        Ok(count)
    }
}

impl Extension {
    /// Takes PAX records: `LENGTH KEY=VALUE\n`, where the length counts itself and
    /// the value may hold anything.
    fn read(&mut self, mut records: &[u8]) -> std::result::Result<(), ArchiveFault> {
        while !records.is_empty() {
            let (record, rest) = split_record(records).ok_or(ArchiveFault::Record)?;
            let at = record.iter().position(|byte| *byte == b'=').ok_or(ArchiveFault::Record)?;
            let (key, value) = (&record[..at], &record[at + 1..]);
            let key = std::str::from_utf8(key).map_err(|_| ArchiveFault::Record)?;
            self.set(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &[u8]) -> std::result::Result<(), ArchiveFault> {
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(number(value)?),
            "uid" => self.uid = Some(number(value)?),
            "gid" => self.gid = Some(number(value)?),
            // Times may be negative or have a fraction; seconds from 1970 on are kept.
            "mtime" => {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                self.mtime = Some(number(whole).unwrap_or(0));
            }
            _ if key.starts_with("GNU.sparse.") => return Err(ArchiveFault::Sparse),
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn member(self, header: &Header, size: u64) -> std::result::Result<Member, ArchiveFault> {
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self
            .link
            .unwrap_or_else(|| header.link_name_bytes().map_or(Vec::new(), |l| l.into_owned()));
        let kind = match header.entry_type() {
            // Archives older than ustar mark a folder by its name alone.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::HardLink(link),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::GNUSparse => return Err(ArchiveFault::Sparse),
            other => {
                return Err(ArchiveFault::Type { kind: other.as_byte() });
            }
        };
        let old = header.as_old();
        let id = |pax: Option<u64>, parsed: io::Result<u64>, field: &[u8]| {
            let id = pax.map_or_else(|| unless_blank(parsed, field), Ok)?;
            u32::try_from(id).map_err(|_| ArchiveFault::Number)
        };
        let mode = unless_blank(header.mode().map(u64::from), &old.mode)?;
        Ok(Member {
            path,
            kind,
            mode: (mode & 0o7777) as u32,
            uid: id(self.uid, header.uid(), &old.uid)?,
            gid: id(self.gid, header.gid(), &old.gid)?,
            mtime: self.mtime.map_or_else(|| unless_blank(header.mtime(), &old.mtime), Ok)?,
            size,
            xattrs: self.xattrs,
        })
    }
}

/// A header's number; some programs leave those blank that they mean as 0.
fn unless_blank(parsed: io::Result<u64>, field: &[u8]) -> io::Result<u64> {
    let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if blank { Ok(0) } else { parsed }
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&records[..space]).ok()?).ok()?;
    let record = records.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &records[length..]))
}

fn number(digits: &[u8]) -> std::result::Result<u64, ArchiveFault> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(ArchiveFault::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TarBuilder;

    fn members(bytes: &[u8]) -> Result<Vec<Member>> {
        let mut archive = Archive::new(bytes, "test.tar");
        let mut members = Vec::new();
        while let Some(member) = archive.next_member()? {
            members.push(member);
        }
        Ok(members)
    }

    #[test]
    fn members_are_read_with_their_attributes() {
        let bytes = TarBuilder::new().file("etc/passwd", "root").symlink("bin", "usr/bin").finish();

        let members = members(&bytes).unwrap();

        assert_eq!(members[0].path, b"etc/passwd");
        assert_eq!((members[0].kind == Kind::File, members[0].size), (true, 4));
        assert_eq!((members[0].mode, members[0].mtime), (0o644, 1_000));
        assert_eq!(members[1].kind, Kind::Symlink(b"usr/bin".to_vec()));
    }

    #[test]
    fn body_has_the_bytes_of_its_member_only() {
        let bytes = TarBuilder::new().file("a", "first").file("b", "second").finish();
        let mut archive = Archive::new(&bytes[..], "test.tar");
        archive.next_member().unwrap();
        archive.next_member().unwrap();

        let mut text = String::new();
        archive.body().read_to_string(&mut text).unwrap();

        assert_eq!(text, "second");
    }

    #[test]
    fn long_names_are_read_whole() {
        let name = "d/".repeat(120) + "file";
        let bytes = TarBuilder::new().file(&name, "x").finish();

        assert_eq!(members(&bytes).unwrap()[0].path, name.as_bytes());
    }

    #[test]
    fn pax_records_may_hold_any_byte() {
        let capability = b"\x01\n=\x00 5";
        let bytes = TarBuilder::new()
            .pax("SCHILY.xattr.security.capability", capability)
            .file("a", "")
            .finish();

        let xattrs = &members(&bytes).unwrap()[0].xattrs;

        assert_eq!(xattrs, &[("security.capability".to_owned(), capability.to_vec())]);
    }

    #[test]
    fn pax_path_and_owner_win_over_the_header() {
        let bytes =
            TarBuilder::new().pax("path", b"real").pax("uid", b"70000").file("x", "").finish();

        let member = &members(&bytes).unwrap()[0];

        assert_eq!((&member.path[..], member.uid), (&b"real"[..], 70_000));
    }

    #[test]
    fn blank_owner_is_root() {
        let bytes = TarBuilder::new().file("a", "").finish();

        let member = &members(&bytes).unwrap()[0];

        assert_eq!((&bytes[108..116], member.uid, member.gid), (&[0; 8][..], 0, 0));
    }

    #[test]
    fn archive_cut_inside_a_member_is_an_error() {
        let bytes = TarBuilder::new().file("a", &"x".repeat(4_000)).finish();

        assert!(matches!(members(&bytes[..2_000]), Err(Error::BadArchive { .. })));
    }

    #[test]
    fn archive_cut_before_its_end_mark_is_an_error() {
        let bytes = TarBuilder::new().file("a", "x").finish();

        assert!(matches!(members(&bytes[..1_024]), Err(Error::BadArchive { .. })));
    }

    #[test]
    fn damaged_header_is_an_error() {
        let mut bytes = TarBuilder::new().file("a", "x").finish();
        bytes[100] ^= 1;

        let error = members(&bytes).unwrap_err();

        assert!(matches!(
            error,
            Error::BadArchive { source: ArchiveFault::Checksum { position: 0 }, .. }
        ));
    }

    #[test]
    fn sparse_file_is_refused() {
        let bytes = TarBuilder::new().pax("GNU.sparse.major", b"1").file("a", "x").finish();

        let error = members(&bytes).unwrap_err();

        assert!(matches!(error, Error::BadArchive { source: ArchiveFault::Sparse, .. }));
    }

    #[test]
    fn oversized_extension_is_refused_without_reading_it() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();

        let error = members(header.as_bytes()).unwrap_err();

        assert!(matches!(error, Error::BadArchive { source: ArchiveFault::Extension { .. }, .. }));
    }

    #[test]
    fn many_extensions_of_one_member_are_refused_like_a_large_one() {
        let half = vec![b'x'; 600 << 10];
        let bytes = TarBuilder::new().pax("a", &half).pax("b", &half).file("f", "").finish();

        let error = members(&bytes).unwrap_err();

        assert!(matches!(error, Error::BadArchive { source: ArchiveFault::Extension { .. }, .. }));
    }

    #[test]
    fn size_that_no_archive_has_is_an_error() {
        let size = u64::MAX.to_string();
        let bytes = TarBuilder::new().pax("size", size.as_bytes()).file("a", "x").finish();

        assert!(matches!(members(&bytes), Err(Error::BadArchive { .. })));
    }

    #[test]
    fn record_whose_length_lies_is_an_error() {
        let mut extension = Extension::default();

        assert!(extension.read(b"99 path=x\n").is_err());
        assert!(extension.read(b"0 path=x\n").is_err());
        assert!(extension.read(b"x").is_err());
    }

    #[test]
    fn noise_is_an_error_and_not_a_panic() {
        let noise: Vec<u8> =
            (0..4_096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();

        assert!(members(&noise).is_err());
    }
}
