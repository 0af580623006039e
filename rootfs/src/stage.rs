//! The staging folder of a build, and the lock that allows one build at a time.
//!
//! INVARIANT: everything in `<state_dir>/staging` belongs to the holder of the build lock, so a new
//! holder finds only leftovers of dead builds.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base::durable;
use base::lock::{self, Lock};
use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};
use crate::progress::Reporter;

/// A staging folder. Dropping it removes it with its content.
pub(crate) struct Stage {
    dir: PathBuf,
    _lock: Lock,
}

/// The parent of staging folders, below the state folder.
pub(crate) fn parent(state_dir: &Path) -> PathBuf {
    state_dir.join("staging")
}

impl Stage {
    /// Waits for other builds, removes the folders of dead ones, and creates a new folder.
    pub(crate) fn enter(state_dir: &Path, reporter: &mut Reporter<'_>) -> Result<Stage> {
        let parent = parent(state_dir);
        durable::create_dir(&parent)?;
        let path = state_dir.join("build.lock");
        let lock = lock::acquire(&path, || reporter.waiting())
            .map_err(|source| Error::Lock { path, source })?;
        sweep(&parent)?;
        let dir = parent.join(unique_name());
        durable::create_dir(&dir)?;
        Ok(Stage { dir, _lock: lock })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Fails if the file system has less than `needed` free bytes.
    pub(crate) fn require_space(&self, needed: u64) -> Result<()> {
        require_space(&self.dir, needed)
    }
}

/// Fails if the file system of a folder has less than `needed` free bytes.
fn require_space(dir: &Path, needed: u64) -> Result<()> {
    let available = available_space(dir)?;
    if available < needed {
        return Err(Error::NoSpace {
            path: dir.to_owned(),
            needed_mib: needed >> 20,
            available_mib: available >> 20,
        });
    }
    Ok(())
}

/// The free bytes of a folder's file system.
pub(crate) fn available_space(dir: &Path) -> Result<u64> {
    let status =
        statvfs(dir).map_err(|errno| Error::Read { path: dir.to_owned(), source: errno.into() })?;
    Ok(status.blocks_available().saturating_mul(status.fragment_size()))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = durable::remove(&self.dir) {
            log::warn!("cannot clean up after a build; error={error}");
        }
    }
}

/// A name that is unique in `staging`.
pub(crate) fn unique_name() -> String {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{}-{:x}", std::process::id(), since.as_nanos())
}

fn sweep(parent: &Path) -> Result<()> {
    let fail = |source| Error::Read { path: parent.to_owned(), source };
    for entry in std::fs::read_dir(parent).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        log::info!("removing what a dead build left; path={}", path.display());
        // A tool of the dead build may still write there: the next build removes it.
        if let Err(error) = durable::remove(&path) {
            log::warn!("cannot remove what a dead build left; error={error}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_stage_removes_the_folders_of_dead_builds() {
        let state = tempfile::tempdir().unwrap();
        let leftover = state.path().join("staging/1-abc/tree");
        std::fs::create_dir_all(&leftover).unwrap();

        let stage = Stage::enter(state.path(), &mut Reporter::new(&mut |_| ())).unwrap();

        assert!(!leftover.exists());
        assert!(stage.dir().is_dir());
    }

    #[test]
    fn dropping_a_stage_removes_its_folder() {
        let state = tempfile::tempdir().unwrap();
        let stage = Stage::enter(state.path(), &mut Reporter::new(&mut |_| ())).unwrap();
        let dir = stage.dir().to_owned();
        std::fs::write(stage.path("spool"), "x").unwrap();

        drop(stage);

        assert!(!dir.exists());
    }

    #[test]
    fn more_space_than_any_disk_has_is_refused_with_the_numbers() {
        let state = tempfile::tempdir().unwrap();
        let stage = Stage::enter(state.path(), &mut Reporter::new(&mut |_| ())).unwrap();

        let error = stage.require_space(1 << 62).unwrap_err();

        assert!(matches!(error, Error::NoSpace { needed_mib, .. } if needed_mib == 1 << 42));
    }
}
