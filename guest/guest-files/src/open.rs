//! Looks at a file before it is opened: to open a device or a FIFO may do something.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::libc::O_PATH;

/// What a path leads to.
pub(crate) enum Opened {
    /// A regular file, to be opened by [`path_of`].
    File(File),
    Dir,
    Other,
}

/// Finds what a path leads to, through links, without opening it.
pub(crate) fn look(path: &Path) -> io::Result<Opened> {
    let found = File::options().read(true).custom_flags(O_PATH).open(path)?;
    let kind = found.metadata()?.file_type();
    Ok(if kind.is_file() {
        Opened::File(found)
    } else if kind.is_dir() {
        Opened::Dir
    } else {
        Opened::Other
    })
}

/// A path that leads to this very file while it is open.
pub(crate) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
