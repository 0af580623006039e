//! Files between this host and a VM: `cp`, `--copy-in`, `--copy-out`; and out of an archive.
//!
//! As with `docker cp`: an existing folder as destination takes the source under its own name; a
//! source that ends with `/.` stands for what is in it. A link that is named on the command line is
//! followed; links inside a tree are copied as links, hard links as such, and holes as holes. Sockets,
//! FIFOs and devices inside a tree are skipped with a warning.

mod inward;
mod landing;
mod outward;
pub(crate) mod owner;
mod rules;
#[cfg(feature = "platform")]
mod unpack;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandbox::{Owner, Special};

pub(crate) use inward::{Target, copy_in, copy_stream_in};
pub(crate) use outward::{copy_out, copy_stream_out};
#[cfg(feature = "platform")]
pub(crate) use unpack::{Limit, unpack};

/// How long a guest may take for one step: a piece of a file, or the end.
const STEP: Duration = Duration::from_secs(60);

fn step() -> Instant {
    Instant::now() + STEP
}

/// What a copy tells of itself.
#[derive(Debug)]
pub(crate) enum CopyEvent<'a> {
    /// A file begins.
    File,
    /// So many bytes were copied since the last time.
    Bytes(u64),
    /// Something without content was skipped.
    Skipped { path: &'a Path, kind: Special },
}

/// Takes what a copy tells of itself.
pub(crate) type Meter<'a> = &'a mut dyn FnMut(CopyEvent<'_>);

/// Whose the copy becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// What is new belongs to the owner of the folder that it is made in; a file that is there keeps
    /// its owner and mode.
    Inherited,
    /// What is new belongs to this owner; a file that is there keeps its owner and mode.
    New(Owner),
    /// All of it belongs to this owner; a file that is there keeps its mode.
    Given(Owner),
    /// Owners and modes are those of the source.
    Source,
}

/// Which name a source takes in an existing folder; none if only its content is meant.
fn name_of(source: &Path) -> Option<PathBuf> {
    let bytes = source.as_os_str().as_bytes();
    if bytes.ends_with(b"/.") || bytes == b"." {
        return None;
    }
    source.file_name().map(PathBuf::from)
}

/// Whether a path says itself that it is a folder.
fn names_folder(path: &Path) -> bool {
    let last = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next();
    matches!(last, Some(b"" | b"." | b".."))
}

/// A source without the `/.` that only we understand.
fn without_dot(source: &Path) -> &Path {
    let bytes = source.as_os_str().as_bytes();
    match bytes.strip_suffix(b"/.") {
        Some(b"") => Path::new("/"),
        Some(rest) => Path::new(OsStr::from_bytes(rest)),
        None => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_name_unless_its_content_is_meant() {
        assert_eq!(name_of(Path::new("a/b")), Some("b".into()));
        assert_eq!(name_of(Path::new("a/b/")), Some("b".into()));
        assert_eq!(name_of(Path::new("a/b/.")), None);
        assert_eq!(name_of(Path::new(".")), None);
        assert_eq!(name_of(Path::new("/")), None);
    }

    #[test]
    fn a_path_that_ends_like_one_is_a_folder() {
        assert!(names_folder(Path::new("a/")));
        assert!(names_folder(Path::new("a/..")));
        assert!(names_folder(Path::new(".")));
        assert!(!names_folder(Path::new("a/b")));
    }

    #[test]
    fn the_dot_is_not_sent_to_the_guest() {
        assert_eq!(without_dot(Path::new("/srv/.")), Path::new("/srv"));
        assert_eq!(without_dot(Path::new("/.")), Path::new("/"));
        assert_eq!(without_dot(Path::new("/srv/x")), Path::new("/srv/x"));
    }
}
