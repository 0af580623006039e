//! The folder and name of one extracted entry, and the links that are created there.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Owner;
use crate::error::file;
use crate::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{FileStat, SFlag, UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

/// The folder and the name of an entry that is extracted.
pub(super) struct Target {
    pub(super) folder: Rc<OwnedFd>,
    pub(super) name: CString,
    /// For error texts.
    pub(super) shown: PathBuf,
}

impl Target {
    /// The regular file that has the name. Fails if a device, FIFO or socket has it.
    pub(super) fn existing(&self) -> Result<Option<FileStat>> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let stat = match fstatat(&*self.folder, self.name.as_c_str(), flags) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => stat.map_err(file("read", &self.shown))?,
        };
        match kind(&stat) {
            SFlag::S_IFREG => Ok(Some(stat)),
            SFlag::S_IFLNK | SFlag::S_IFDIR => Ok(None),
            _ => Err(Error::Special { path: self.shown.clone() }),
        }
    }

    /// Renames a complete file to its final name, which replaces an existing one.
    pub(super) fn publish(&self, partial: &CStr) -> Result<()> {
        if self.is_final(partial) {
            return Ok(());
        }
        renameat(&*self.folder, partial, &*self.folder, self.name.as_c_str())
            .map_err(file("create", &self.shown))
    }

    /// Calls `create`, which creates a file of the name `partial`. If that is the final name, an earlier file
    /// of the name is removed first.
    pub(super) fn create<T>(
        &self,
        partial: &CStr,
        create: impl Fn() -> nix::Result<T>,
    ) -> nix::Result<T> {
        match create() {
            Err(Errno::EEXIST) if self.is_final(partial) => {
                unlinkat(&*self.folder, partial, UnlinkatFlags::NoRemoveDir)?;
                create()
            }
            created => created,
        }
    }

    fn is_final(&self, partial: &CStr) -> bool {
        partial == self.name.as_c_str()
    }

    /// Removes an incomplete file.
    pub(super) fn discard(&self, partial: &CStr) {
        if let Err(errno) = unlinkat(&*self.folder, partial, UnlinkatFlags::NoRemoveDir) {
            let path = self.shown.with_file_name(OsStr::from_bytes(partial.to_bytes()));
            log::warn!("cannot remove a partial file; path={} error={errno}", path.display());
        }
    }
}

/// Links a file to the target's name, which replaces an existing file.
pub(super) fn make_hard_link(
    folder: &OwnedFd,
    name: &CStr,
    target: &Target,
    partial: &CStr,
) -> Result<()> {
    let link = || linkat(folder, name, &*target.folder, partial, AtFlags::empty());
    target.create(partial, link).map_err(file("create link", &target.shown))?;
    if target.is_final(partial) {
        return Ok(());
    }
    target.publish(partial).inspect_err(|_| target.discard(partial))?;
    // If both names already refer to the same file, rename(2) does nothing.
    match unlinkat(&*target.folder, partial, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(file("create link", &target.shown)(errno)),
    }
}

/// Creates a symbolic link, which replaces an existing file.
pub(super) fn make_symlink(
    target: &Target,
    partial: &CStr,
    link: &Path,
    modified: Option<i64>,
    owner: Option<Owner>,
) -> Result<()> {
    let create = || symlinkat(link, &*target.folder, partial);
    target.create(partial, create).map_err(file("create link", &target.shown))?;
    let set_time = |seconds| {
        let (no_access, time) = (TimeSpec::UTIME_OMIT, TimeSpec::new(seconds, 0));
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(&*target.folder, partial, &no_access, &time, no_follow)
    };
    let set_owner = |Owner { uid, gid }| {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&*target.folder, partial, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
    };
    owner
        .map_or(Ok(()), set_owner)
        .and_then(|()| modified.map_or(Ok(()), set_time))
        .map_err(file("set up", &target.shown))
        .and_then(|()| target.publish(partial))
        .inspect_err(|_| target.discard(partial))
}

/// The file type of `stat`.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}
