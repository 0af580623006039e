//! Extracts an archive.

use std::ffi::OsStr;
use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::lossy;
use crate::{Entry, EntryKind, Error, Metadata, Node, Owner, Reader, Result, TreeExtractor};

/// Extracts all entries of an archive and reads it to its end. Devices and FIFOs have no content: they are
/// skipped with a warning. Returns the mode of the archive's entry for the top folder, if it has one.
///
/// The extractor must accept entries in any order.
pub fn unpack(
    mut archive: Reader<'_, impl BufRead>,
    mut extractor: TreeExtractor,
) -> Result<Option<u32>> {
    let mut top_mode = None;
    while let Some(entry) = archive.next_entry()? {
        let path = relative(&entry.path);
        match &entry.kind {
            EntryKind::Directory if is_top(&entry.path) => top_mode = Some(entry.mode & 0o777),
            _ if path.as_os_str().is_empty() || is_top(&entry.path) => {
                return Err(Error::Escape { path: path.to_owned() });
            }
            EntryKind::Fifo | EntryKind::Device => {
                log::warn!("skipping a device or FIFO; path={:?}", lossy(&entry.path));
            }
            EntryKind::Directory => extractor.entry(path, Node::Directory, &metadata(&entry))?,
            EntryKind::Symlink(target) => {
                let target = Path::new(OsStr::from_bytes(target));
                extractor.entry(path, Node::Symlink(target), &metadata(&entry))?;
            }
            EntryKind::HardLink(target) => {
                extractor.entry(path, Node::HardLink(relative(target)), &metadata(&entry))?;
            }
            EntryKind::File => {
                extractor.entry(path, Node::File, &metadata(&entry))?;
                content(&mut archive, &mut extractor)?;
            }
        }
    }
    extractor.finish()?;
    archive.finish()?;
    Ok(top_mode)
}

fn content(archive: &mut Reader<'_, impl BufRead>, extractor: &mut TreeExtractor) -> Result<()> {
    loop {
        let chunk = archive.chunk()?;
        if chunk.is_empty() {
            return Ok(());
        }
        extractor.data(chunk)?;
        let count = chunk.len();
        archive.consume(count)?;
    }
}

/// Whether a path is that of the top folder: `./` in most archives.
fn is_top(path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    !path.starts_with(b"/") && names.all(|name| matches!(name, b"" | b"."))
}

/// A path without the `./` that archives of a folder begin with, and without the `/` at a folder's end.
fn relative(path: &[u8]) -> &Path {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    Path::new(OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(path)))
}

fn metadata(entry: &Entry) -> Metadata {
    Metadata {
        mode: entry.mode,
        owner: Some(Owner { uid: entry.uid, gid: entry.gid }),
        modified: i64::try_from(entry.mtime).ok(),
    }
}
