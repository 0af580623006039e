//! Copies files between this host and a VM (`cp`, `--copy-in`, `--copy-out`), and extracts archives of jobs.
//!
//! As with `docker cp`, a source is copied into an existing folder under its own name; a source that
//! ends with `/.` means the contents of that folder. A symbolic link on the command line is followed;
//! inside a tree, symbolic links, hard links and holes are copied as such. Sockets, FIFOs and devices
//! inside a tree are skipped with a warning.

mod from_vm;
pub(crate) mod owner;
mod to_vm;
#[cfg(feature = "platform")]
mod unpack;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandbox::{Owner, Special};

pub(crate) use from_vm::{copy_out, copy_stream_out};
pub(crate) use to_vm::{Destination, copy_in, copy_stream_in};
#[cfg(feature = "platform")]
pub(crate) use unpack::unpack;

/// How long a guest may take for one step: a chunk of a file, or the end.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// The deadline of a step that starts now.
fn step() -> Instant {
    Instant::now() + STEP_TIMEOUT
}

/// Progress of a copy.
#[derive(Debug)]
pub(crate) enum CopyEvent<'a> {
    /// A file starts.
    File,
    /// This many bytes were copied since the last event.
    Bytes(u64),
    /// A device, FIFO or socket was skipped.
    Skipped { path: &'a Path, kind: Special },
}

/// Receives the progress of a copy.
pub(crate) type Meter<'a> = &'a mut dyn FnMut(CopyEvent<'_>);

/// The owners of copied files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// New files belong to the owner of their folder; replaced files keep owner and mode.
    Inherited,
    /// New files belong to this owner; replaced files keep owner and mode.
    New(Owner),
    /// All files belong to this owner; replaced files keep their mode.
    Given(Owner),
    /// All files have the owner and mode of the source.
    Source,
}

/// The name that a source gets in an existing folder; none if only its contents are copied.
fn name_of(source: &Path) -> Option<PathBuf> {
    let bytes = source.as_os_str().as_bytes();
    if bytes.ends_with(b"/.") || bytes == b"." {
        return None;
    }
    source.file_name().map(PathBuf::from)
}

/// Whether the syntax of a path makes it a folder.
fn names_folder(path: &Path) -> bool {
    let last = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next();
    matches!(last, Some(b"" | b"." | b".."))
}

/// A source without the suffix `/.`, which the guest does not know.
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
    fn a_source_has_a_name_unless_only_its_contents_are_copied() {
        assert_eq!(name_of(Path::new("a/b")), Some("b".into()));
        assert_eq!(name_of(Path::new("a/b/")), Some("b".into()));
        assert_eq!(name_of(Path::new("a/b/.")), None);
        assert_eq!(name_of(Path::new(".")), None);
        assert_eq!(name_of(Path::new("/")), None);
    }

    #[test]
    fn a_path_that_ends_with_a_slash_or_dots_is_a_folder() {
        assert!(names_folder(Path::new("a/")));
        assert!(names_folder(Path::new("a/..")));
        assert!(names_folder(Path::new(".")));
        assert!(!names_folder(Path::new("a/b")));
    }

    #[test]
    fn the_suffix_of_a_source_is_not_sent_to_the_guest() {
        assert_eq!(without_dot(Path::new("/srv/.")), Path::new("/srv"));
        assert_eq!(without_dot(Path::new("/.")), Path::new("/"));
        assert_eq!(without_dot(Path::new("/srv/x")), Path::new("/srv/x"));
    }
}
