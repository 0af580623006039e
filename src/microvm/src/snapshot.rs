//! Snapshots: saved VMs, from which others are restored.
//!
//! ```text
//! <state>/snapshots/          root's, 0700: it holds guests' memory
//!     .lock                   held while a snapshot is made
//!     <key>/                  complete: renamed to this name last
//!         state memory        written by the monitor
//!         disk                the VM's disk at the same moment
//!         snapshot.json       sizes and digests, and the files that it depends on
//!         verified            in which boot of the host the digests were last compared
//!         restore-timed-out   exists if the last restore timed out
//!     .partial-<key>          incomplete; the next snapshot of the key removes it
//!     .quarantine-<key>       the last one of the key that failed, kept for inspection
//! ```
//!
//! INVARIANT: a snapshot is restored only for a VM of its key, so its guest finds the same machine.

mod digest;
mod key;
mod restore_failure;
mod save;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::error::chain;
use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise};
use sandbox::SandboxConfig;
use serde::{Deserialize, Serialize};

use self::digest::Verdict;
pub(crate) use self::key::Key;
use self::key::Stamp;
pub(crate) use self::restore_failure::{is_snapshot_fault, is_timeout, was_removed};
use crate::error::file;
use crate::vmm::Vmm;
use crate::{Result, disk};

/// The names of a snapshot's files, in its own folder and in that of a VM.
pub(crate) const FILES: [(&str, &str); 2] =
    [("state", crate::SNAPSHOT_STATE), ("memory", crate::SNAPSHOT_MEMORY)];
const DISK: &str = "disk";
const MARKER: &str = "snapshot.json";

/// A complete snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    folder: PathBuf,
    /// The opened folder: its files belong to one snapshot, even if another one takes its name.
    opened: Arc<File>,
    /// Whether the restore before this one timed out.
    previous_restore_timed_out: bool,
}

/// The snapshots of a state folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// The snapshots that this process has read or prefetched.
    used: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    /// The sizes of `state`, `memory` and `disk`.
    sizes: Vec<u64>,
    digests: Vec<String>,
    depends_on: Vec<Stamp>,
}

impl Snapshot {
    fn open(folder: PathBuf) -> io::Result<Self> {
        let opened = Arc::new(File::open(&folder)?);
        let mut snapshot = Self { folder, opened, previous_restore_timed_out: false };
        snapshot.previous_restore_timed_out =
            snapshot.file(restore_failure::TIMEOUT_MARKER).exists();
        Ok(snapshot)
    }

    fn has_its_name(&self) -> bool {
        let named = fs::metadata(&self.folder).map(|folder| (folder.dev(), folder.ino()));
        let opened = self.opened.metadata().map(|folder| (folder.dev(), folder.ino()));
        matches!((named, opened), (Ok(named), Ok(opened)) if named == opened)
    }

    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.opened.as_raw_fd()).into()
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.file(DISK)
    }

    /// Each file, and its name in the VM's folder.
    pub(crate) fn files(&self) -> [(PathBuf, &'static str); 2] {
        FILES.map(|(name, in_vm)| (self.file(name), in_vm))
    }

    /// Hard-links its files into the VMM's folder of a VM, so that they stay if it is replaced.
    pub(crate) fn link_into(&self, vm: &Path) -> Result<()> {
        let inner = vm.join("vmm");
        for (source, name) in self.files() {
            fs::hard_link(&source, inner.join(name)).map_err(file("link", &source))?;
        }
        Ok(())
    }

    fn marker(&self) -> Option<Marker> {
        serde_json::from_slice(&fs::read(self.file(MARKER)).ok()?).ok()
    }

    /// The names of the saved files.
    fn names() -> [&'static str; 3] {
        let [(state, _), (memory, _)] = FILES;
        [state, memory, DISK]
    }

    fn sizes(&self) -> io::Result<Vec<u64>> {
        let size = |name| Ok(fs::symlink_metadata(self.file(name))?.len());
        Self::names().into_iter().map(size).collect()
    }

    fn digests(&self) -> io::Result<Vec<String>> {
        Self::names().into_iter().map(|name| digest::of(&self.file(name))).collect()
    }
}

impl Store {
    pub(crate) fn new(state: &Path) -> Self {
        Self { folder: state.join("snapshots"), used: Mutex::default() }
    }

    /// The snapshot from which such a VM is restored. A damaged one is quarantined.
    pub(crate) fn find(&self, vmm: &dyn Vmm, config: &SandboxConfig) -> Option<Snapshot> {
        let key = Key::of(vmm, config)?;
        let snapshot = Snapshot::open(self.folder.join(key.name())).ok()?;
        let Some(marker) = snapshot.marker() else {
            self.quarantine(&snapshot, "it has no marker");
            return None;
        };
        if snapshot.sizes().ok() != Some(marker.sizes) {
            self.quarantine(&snapshot, "the size of a file has changed");
            return None;
        }
        let is_first = || self.is_first_use(&snapshot);
        match digest::verify(&snapshot, &marker.digests) {
            Verdict::Known if is_first() => prefetch(&snapshot),
            Verdict::Known => {}
            Verdict::Sound => drop(is_first()),
            Verdict::Damaged(reason) => {
                self.quarantine(&snapshot, &reason);
                return None;
            }
        }
        Some(snapshot)
    }

    /// Whether this process has not used it before.
    fn is_first_use(&self, snapshot: &Snapshot) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(snapshot.folder.clone())
    }

    /// Takes a snapshot out of use, and logs why.
    pub(crate) fn quarantine(&self, snapshot: &Snapshot, reason: &str) {
        if !snapshot.has_its_name() {
            // Another snapshot has taken its place.
            return;
        }
        let name = snapshot.folder.file_name().unwrap_or_default().to_string_lossy();
        let target = self.folder.join(format!(".quarantine-{name}"));
        log::warn!("snapshot quarantined; to={} reason={reason}", target.display());
        let moved = remove(&target).and_then(|()| {
            fs::rename(&snapshot.folder, &target).map_err(file("rename", &snapshot.folder))
        });
        if let Err(error) = moved {
            log::error!("cannot quarantine a snapshot; error={}", chain(&error));
        }
    }

    /// Removes stale snapshots: those whose image, monitor or format has changed.
    pub(crate) fn sweep(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("list", &self.folder))?,
        };
        let mut removed = Vec::new();
        let _lock = self.lock()?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let folder = entry.path();
            let is_used = match name.strip_prefix('.') {
                Some("lock") => true,
                Some(hidden) => !hidden.starts_with("partial-"),
                None => {
                    let snapshot = Snapshot::open(folder.clone()).ok();
                    let marker = snapshot.and_then(|snapshot| snapshot.marker());
                    marker.is_some_and(|marker| marker.depends_on.iter().all(Stamp::is_unchanged))
                }
            };
            if !is_used {
                remove(&folder)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Keeps others from making snapshots.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        let folder = &self.folder;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(file("create", folder))?;
        let path = folder.join(".lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(file("open", &path))?;
        Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file("lock", &path)(errno.into()))
    }
}

/// Starts to read a snapshot's files into the page cache, without their holes, which would take up
/// memory there. Does not wait.
fn prefetch(snapshot: &Snapshot) {
    for (path, _) in snapshot.files() {
        if let Err(error) = read_ahead(&path) {
            log::debug!("cannot read ahead; path={} error={error}", path.display());
        }
    }
}

fn read_ahead(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    for (start, end) in disk::data(&file)? {
        let length = end.saturating_sub(start);
        posix_fadvise(&file, start, length, PosixFadviseAdvice::POSIX_FADV_WILLNEED)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", folder)),
    }
}

/// Removes the stale snapshots under `state`; returns their names.
pub fn sweep(state: &Path) -> Result<Vec<String>> {
    Store::new(state).sweep()
}
