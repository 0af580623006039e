//! Where an archive is unpacked before anybody sees it, and how it gets into its place.
//!
//! | the target | the stage | then |
//! |---|---|---|
//! | is not there | `.vm0-download-NAME` beside it | renamed, at once |
//! | is a folder | `.vm0/download` in it: on its file system, and no part of any checkpoint | its entries renamed, one by one: see `merge` |
//!
//! Each rename is atomic, a merge is not: one that fails is undone, and one that is killed in the
//! middle leaves some entries new and some old. Dropping a stage removes what is left of it, and so
//! does the next stage at the same place after a crash.

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

/// A stage for one target.
pub(crate) struct Stage<'a> {
    target: &'a Path,
    path: PathBuf,
    /// Whether the target is there already.
    merges: bool,
    /// The mode that the target is to have again: it had to be opened for its owner.
    locked: Option<u32>,
}

impl<'a> Stage<'a> {
    /// An empty stage.
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

    /// The stage's folder.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        open(&self.path, FOLDER, Mode::empty())
            .map_err(|errno| Error::Stage { path: self.path.clone(), source: errno.into() })
    }

    /// Moves all that is in the stage to the target, whose mode is `mode` if it is new.
    pub(crate) fn place(self, mode: Option<u32>) -> Result<()> {
        let failed = |source| Error::Place { path: self.target.to_owned(), source };
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
            // `.vm0` is ours, and must be in the target; what leads to a target is not ours.
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
            log::warn!("a stage is left; path={} error={error}", self.path.display());
        }
        if let Some(parent) = self.path.parent().filter(|_| self.merges) {
            // Somebody else's files may be in it; then it stays.
            let _ = fs::remove_dir(parent);
        }
        if let Some(mode) = self.locked
            && let Err(error) = fs::set_permissions(self.target, Permissions::from_mode(mode))
        {
            let target = self.target.display();
            log::error!("a target does not have its mode again; path={target} error={error}");
        }
    }
}

/// Opens a target of ours that could not be changed; returns the mode that it had.
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

/// Removes a folder with all in it, those included that are not writable.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Makes folders writable for their owner.
fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
