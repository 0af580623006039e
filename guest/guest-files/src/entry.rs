//! The description of a file.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use files_proto::{Entry, Kind, Link, Resolved};

use crate::account::Names;
use crate::attribute;
use crate::open::path_of;
use crate::output::{Lossy, shown, shown_path};

/// The last second of the year 9999, the latest time that RFC 3339 can express.
const MAX_TIME: u64 = 253_402_300_799;

/// Whether a link itself or its target is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    Yes,
    No,
}

pub(crate) fn describe(path: &Path, follow: Follow, names: &Names) -> io::Result<(Entry, Lossy)> {
    let metadata = match follow {
        Follow::Yes => fs::metadata(path)?,
        Follow::No => fs::symlink_metadata(path)?,
    };
    let kind = kind(&metadata);
    let (text, is_lossy) = shown_path(path);
    let entry = Entry {
        name: path.file_name().map_or_else(|| "/".to_owned(), |name| shown(name).0),
        path: text,
        kind,
        size: metadata.len(),
        mode: metadata.mode() & 0o7777,
        permissions: permissions(&metadata),
        owner: names.user(metadata.uid()),
        group: names.group(metadata.gid()),
        modified: time(metadata.mtime(), metadata.mtime_nsec()),
        // A link has none of its own.
        attributes: if kind == Kind::Symlink { BTreeMap::new() } else { attribute::read(path) },
        link: (kind == Kind::Symlink).then(|| link(path)),
    };
    Ok((entry, is_lossy))
}

/// Describes an open file under the path that it was found by.
pub(crate) fn describe_open(file: &File, path: &Path, names: &Names) -> io::Result<(Entry, Lossy)> {
    let (entry, _) = describe(&path_of(file), Follow::Yes, names)?;
    let (text, is_lossy) = shown_path(path);
    let name = path.file_name().map_or_else(|| "/".to_owned(), |name| shown(name).0);
    Ok((Entry { name, path: text, ..entry }, is_lossy))
}

fn kind(metadata: &Metadata) -> Kind {
    let kind = metadata.file_type();
    if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Dir
    } else if kind.is_symlink() {
        Kind::Symlink
    } else {
        Kind::Other
    }
}

fn link(path: &Path) -> Link {
    // A link that is replaced meanwhile has no target.
    let target = fs::read_link(path).map(|target| shown_path(&target).0).unwrap_or_default();
    let resolved = fs::canonicalize(path).and_then(|target| {
        let metadata = fs::metadata(&target)?;
        let (path, _) = shown_path(&target);
        Ok(Resolved { path, kind: kind(&metadata), mode: metadata.mode() & 0o7777 })
    });
    Link { target, resolved: resolved.ok() }
}

/// Type and mode as `ls -l` prints them.
fn permissions(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let first = if kind.is_dir() {
        'd'
    } else if kind.is_symlink() {
        'l'
    } else if kind.is_fifo() {
        'p'
    } else if kind.is_socket() {
        's'
    } else if kind.is_block_device() {
        'b'
    } else if kind.is_char_device() {
        'c'
    } else {
        '-'
    };
    std::iter::once(first).chain(mode_letters(metadata.mode())).collect()
}

fn mode_letters(mode: u32) -> [char; 9] {
    let mut letters = ['-'; 9];
    for (place, letter) in letters.iter_mut().enumerate() {
        if mode & (0o400 >> place) != 0 {
            *letter = ['r', 'w', 'x'][place % 3];
        }
    }
    for (bit, place, letter) in [(0o4000, 2, 's'), (0o2000, 5, 's'), (0o1000, 8, 't')] {
        if mode & bit != 0 {
            let is_executable = letters[place] == 'x';
            letters[place] = if is_executable { letter } else { letter.to_ascii_uppercase() };
        }
    }
    letters
}

/// RFC 3339; a time before 1970 counts as 1970.
fn time(seconds: i64, nanoseconds: i64) -> String {
    let seconds = u64::try_from(seconds);
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or_default();
    let since =
        seconds.map_or(Duration::ZERO, |seconds| Duration::new(seconds.min(MAX_TIME), nanoseconds));
    humantime::format_rfc3339_nanos(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_shown_as_ls_shows_it() {
        let shown = |mode| mode_letters(mode).iter().collect::<String>();
        assert_eq!(shown(0o644), "rw-r--r--");
        assert_eq!(shown(0o4755), "rwsr-xr-x");
        assert_eq!(shown(0o2640), "rw-r-S---");
        assert_eq!(shown(0o1777), "rwxrwxrwt");
        assert_eq!(shown(0o1000), "--------T");
    }

    #[test]
    fn a_time_has_nanoseconds_and_stays_between_1970_and_9999() {
        assert_eq!(time(951_868_799, 5), "2000-02-29T23:59:59.000000005Z");
        assert_eq!(time(-1, 999_999_999), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(i64::MAX, 0), "9999-12-31T23:59:59.000000000Z");
    }
}
