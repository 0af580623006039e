//! Where an archive is unpacked before anybody sees it, and how it gets into its place.
//!
//! | the target | the stage | then |
//! |---|---|---|
//! | is not there | `.vm0-download-NAME` beside it | renamed, at once |
//! | is a folder | `.vm0/download` in it: on its file system, and no part of any checkpoint | its entries renamed, one by one |
//!
//! An entry that is there already is exchanged for the new one; folders are merged. A folder that an
//! overlay has from a lower layer cannot be exchanged (EXDEV): it is removed before what replaces it
//! is renamed, and only there is a moment without either. Each rename is atomic, a merge is not: who
//! is killed in the middle leaves some entries new and some old. Dropping a
//! stage removes what is left of it, and so does the next stage at the same place after a crash.

use std::ffi::{CStr, OsStr};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstat};

use crate::sys::{Existing, rename};
use crate::{Error, Result};

/// A stage for one target.
pub(crate) struct Stage<'a> {
    target: &'a Path,
    path: PathBuf,
    /// Whether the target is there already.
    merges: bool,
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
        let stage = Self { target, path, merges };
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
            return merge(self.open()?, target.as_fd()).map_err(|errno| failed(errno.into()));
        }
        let mode = fs::Permissions::from_mode(mode.unwrap_or(0o755));
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
    }
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
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a folder of that one, with all in it; a link of this name would go, not what it leads to.
fn remove_in(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let folder = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let path = Path::new(&folder).join(OsStr::from_bytes(name.to_bytes()));
    remove(&path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
}

/// Moves the entries of one folder into another.
fn merge(from: OwnedFd, into: BorrowedFd<'_>) -> nix::Result<()> {
    let mut folder = Dir::from_fd(from.try_clone().map_err(|_| Errno::EMFILE)?)?;
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rename(from.as_fd(), into, name, Existing::Stays) {
            Err(Errno::EEXIST) => {}
            done => {
                done?;
                continue;
            }
        }
        match (
            openat(&from, name, FOLDER, Mode::empty()),
            openat(into, name, FOLDER, Mode::empty()),
        ) {
            (Ok(new), Ok(old)) => {
                let mode = fstat(&new)?.st_mode;
                merge(new, old.as_fd())?;
                fchmod(&old, Mode::from_bits_truncate(mode & 0o777))?;
            }
            // What was there goes with the stage.
            _ => match rename(from.as_fd(), into, name, Existing::IsExchanged) {
                Err(Errno::EXDEV) => {
                    remove_in(into, name)?;
                    rename(from.as_fd(), into, name, Existing::Stays)?;
                }
                done => done?,
            },
        }
    }
    Ok(())
}
