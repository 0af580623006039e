//! The state folder and its lock: one process serves a folder.
//!
//! ```text
//! <state>/control/          0700
//!     lock                  held by the process that serves
//!     control.db -wal -shm  0600: the embedded database: jobs, attempts, events, telemetry, storages, checkpoints
//!     control.sock          0600: the operator's side
//!     key                   0600: 32 random bytes; signs URLs, makes tokens; unless there is a key file
//!     runner.token          0600: what runners of this host authenticate with
//!     runner.id             0600: with a shared database: the id of runners in this process
//!     secrets/<run>         0600: with the embedded database: from a job's submission until its end
//!     blobs/<2>/<digest>    archives, manifests and histories by their SHA-256
//!     partial/              uploads under way; emptied at the start
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base::lock::Lock;

use crate::error::file;
use crate::{Error, Result};

/// The folder of one platform, and its lock.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: Lock,
}

impl Folder {
    /// Creates missing folders, and acquires the lock.
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let path = path(state);
        for folder in [path.clone(), path.join("secrets"), path.join("blobs"), path.join("partial")]
        {
            make(&folder)?;
        }
        let lock = lock(&path.join("lock"))?;
        let folder = Self { path, _lock: lock };
        for entry in entries(&folder.partial())? {
            fs::remove_file(&entry).map_err(file("remove", &entry))?;
        }
        Ok(folder)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("control.db")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.path.join("key")
    }

    pub(crate) fn runner_token(&self) -> PathBuf {
        self.path.join("runner.token")
    }

    pub(crate) fn local_runner(&self) -> PathBuf {
        self.path.join("runner.id")
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.path.join("partial")
    }
}

/// The socket of the platform of a state folder.
pub(crate) fn socket(state: &Path) -> PathBuf {
    path(state).join("control.sock")
}

fn path(state: &Path) -> PathBuf {
    state.join("control")
}

/// Calls `with` with a path to the socket that fits in `sun_path`, through `/proc/self/fd`.
pub(crate) fn at_socket<T>(
    socket: &Path,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let folder = File::open(socket.parent().unwrap_or(socket))?;
    let name = socket.file_name().unwrap_or_default();
    with(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

/// Creates a folder and its parents with mode 0700.
pub(crate) fn make(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file("create", path))
}

/// The paths of a folder's entries.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(file("read", folder))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(file("read", folder))).collect()
}

/// Replaces a file atomically with mode 0600, and flushes it to the disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    base::durable::write_private(path, bytes).map_err(from_durable)
}

/// Flushes a file, renames it to `path`, and flushes the folder.
pub(crate) fn publish(partial: &Path, path: &Path) -> Result<()> {
    base::durable::publish(partial, path).map_err(from_durable)
}

fn from_durable(error: base::durable::Error) -> Error {
    file(error.operation, &error.path)(error.source)
}

/// Flushes a folder to the disk.
pub(crate) fn flush(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(file("flush", folder))
}

/// Removes a file. An absent one is not an error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", path)),
    }
}

fn lock(path: &Path) -> Result<Lock> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let open = options.open(path).map_err(file("open", path))?;
    let lock = base::lock::try_lock(open).map_err(file("lock", path))?;
    lock.map_err(|_| Error::InUse { path: path.parent().unwrap_or(path).to_owned() })
}
