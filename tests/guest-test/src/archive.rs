//! Makes tar archives for tests, compressed with gzip or zstd.

use std::io::Write as _;

use tar::{Builder, EntryType, Header};

/// An entry of an archive.
#[derive(Debug, Clone)]
pub enum Entry<'a> {
    /// Path, content, mode.
    File(&'a str, &'a [u8], u32),
    /// Path, mode.
    Folder(&'a str, u32),
    /// Path, target.
    Link(&'a str, &'a str),
    /// Path, target: another name of an earlier entry.
    HardLink(&'a str, &'a str),
    /// Path: a device node.
    Device(&'a str),
}

/// A tar archive. Paths are not validated.
pub fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        match *entry {
            Entry::File(path, content, mode) => {
                let mut header = header(path, EntryType::Regular, mode);
                header.set_size(content.len() as u64);
                append(&mut builder, header, content);
            }
            Entry::Folder(path, mode) => {
                append(&mut builder, header(path, EntryType::Directory, mode), b"");
            }
            Entry::Link(path, target) => {
                append_link(&mut builder, EntryType::Symlink, path, target)
            }
            Entry::HardLink(path, target) => {
                append_link(&mut builder, EntryType::Link, path, target);
            }
            Entry::Device(path) => append(&mut builder, header(path, EntryType::Char, 0o666), b""),
        }
    }
    builder.into_inner().unwrap()
}

/// A tar archive compressed with gzip.
pub fn tar_gz(entries: &[Entry<'_>]) -> Vec<u8> {
    gzip(&tar(entries))
}

/// A tar archive compressed with zstd.
pub fn tar_zst(entries: &[Entry<'_>]) -> Vec<u8> {
    zstd::encode_all(&tar(entries)[..], 3).unwrap()
}

/// Compresses with gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn header(path: &str, kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    // `Header::set_path` rejects absolute paths and `..`.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header
}

fn append(builder: &mut Builder<Vec<u8>>, mut header: Header, content: &[u8]) {
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn append_link(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
    let mut header = header(path, kind, 0o777);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    append(builder, header, b"");
}
