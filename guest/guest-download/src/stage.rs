//! The staging folder, into which an archive is unpacked before it is moved to its target.
//!
//! | the target | the stage | the move |
//! |---|---|---|
//! | does not exist | `.vm0-download-NAME` beside it | one rename |
//! | is a folder | `.vm0/download` in it: on the same file system, excluded from checkpoints | a rename per entry: see `merge` |
//!
//! Each rename is atomic; a merge is not. A merge that fails is undone; one that is killed leaves some
//! entries new and some old. Dropping a stage removes it; after a crash the next stage for the same
//! target does.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use crate::merge::merge;
use crate::{Error, Result};

/// The staging folder of one target.
pub(crate) struct Stage<'a> {
    target: &'a Path,
    path: PathBuf,
    /// Whether the target exists.
    merges: bool,
    /// The target's old mode, if it had to be made writable.
    locked: Option<u32>,
}

impl<'a> Stage<'a> {
    /// Creates an empty stage.
    pub(crate) fn new(target: &'a Path) -> Result<Self> {
        let merges = target.is_dir();
        let path = if merges {
            target.join(".vm0/download")
        } else {
            let name = target.file_name().unwrap_or_default().to_string_lossy();
            target.with_file_name(format!(".vm0-download-{name}"))
        };
        let locked = if merges { unlock(target)? } else { None };
        let stage = Self { target, path, merges, locked };
        stage.make().map_err(|source| Error::Stage { path: stage.path.clone(), source })?;
        Ok(stage)
    }

    /// Opens the stage's folder.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        open(&self.path, FOLDER, Mode::empty())
            .map_err(|errno| Error::Stage { path: self.path.clone(), source: errno.into() })
    }

    /// Moves the stage's entries to the target. A new target gets `mode`.
    pub(crate) fn move_to_target(self, mode: Option<u32>) -> Result<()> {
        let failed = |source| Error::Move { path: self.target.to_owned(), source };
        if self.merges {
            let target = open(self.target, FOLDER & !OFlag::O_NOFOLLOW, Mode::empty());
            let target = target.map_err(|errno| failed(errno.into()))?;
            return merge(self.open()?, target).map_err(|errno| failed(errno.into()));
        }
        let mode = Permissions::from_mode(mode.unwrap_or(0o755));
        fs::set_permissions(&self.path, mode).map_err(failed)?;
        fs::rename(&self.path, self.target).map_err(failed)
    }

    fn make(&self) -> io::Result<()> {
        if let Some(parent) = self.path.parent() {
            // `.vm0` must be a folder in the target. Links on the path to the target may stay.
            if self.merges && parent.is_symlink() {
                fs::remove_file(parent)?;
            }
            fs::create_dir_all(parent)?;
        }
        remove(&self.path)?;
        DirBuilder::new().mode(0o700).create(&self.path)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            log::warn!("cannot remove a stage; path={} error={error}", self.path.display());
        }
        if let Some(parent) = self.path.parent().filter(|_| self.merges) {
            // `.vm0` stays if it holds other files.
            let _ = fs::remove_dir(parent);
        }
        if let Some(mode) = self.locked
            && let Err(error) = fs::set_permissions(self.target, Permissions::from_mode(mode))
        {
            let target = self.target.display();
            log::error!("cannot restore a target's mode; path={target} error={error}");
        }
    }
}

/// Makes a target of this user writable. Returns its old mode if that was necessary.
fn unlock(target: &Path) -> Result<Option<u32>> {
    let failed = |source| Error::Stage { path: target.to_owned(), source };
    let metadata = fs::metadata(target).map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o700 == 0o700 || metadata.uid() != geteuid().as_raw() {
        return Ok(None);
    }
    fs::set_permissions(target, Permissions::from_mode(mode | 0o700)).map_err(failed)?;
    Ok(Some(mode))
}

const FOLDER: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

/// Removes a folder recursively, including folders that are not writable.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Makes a folder and its sub-folders writable for their owner.
fn make_writable(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}
