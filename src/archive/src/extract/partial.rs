//! A file until it is complete.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd;

use super::Owner;
use super::target::Target;
use crate::error::file;
use crate::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};

/// An incomplete file. Dropping it removes it.
pub(super) struct PartialFile {
    target: Target,
    name: CString,
    file: File,
    metadata: EntryMetadata,
    ends_in_hole: bool,
    published: bool,
}

impl PartialFile {
    pub(super) fn create(target: Target, name: CString, metadata: EntryMetadata) -> Result<Self> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
        let open = || openat(&*target.folder, name.as_c_str(), flags, owner_only);
        let fd = target.create(&name, open).map_err(file("create", &target.shown))?;
        Ok(Self { target, name, file: fd.into(), metadata, ends_in_hole: false, published: false })
    }

    /// The error of a failed write.
    pub(super) fn failed(&self, source: io::Error) -> Error {
        file("write", &self.target.shown)(source)
    }

    /// Appends a hole.
    pub(super) fn skip(&mut self, length: u64) -> io::Result<()> {
        let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
        self.ends_in_hole = true;
        self.file.seek(SeekFrom::Current(length)).map(drop)
    }

    pub(super) fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.ends_in_hole &= data.is_empty();
        self.file.write_all(data)
    }

    /// Applies the metadata, and renames the file to its final name.
    pub(super) fn publish(mut self) -> Result<()> {
        if self.ends_in_hole {
            let length = self.file.stream_position();
            let set = length.and_then(|length| self.file.set_len(length));
            set.map_err(file("write", &self.target.shown))?;
        }
        apply_metadata(&self.file, self.metadata).map_err(file("set up", &self.target.shown))?;
        self.target.publish(&self.name)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published {
            self.target.discard(&self.name);
        }
    }
}

/// Owner, mode and time of a complete file or folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryMetadata {
    pub(super) owner: Option<Owner>,
    pub(super) mode: Mode,
    pub(super) modified: Option<i64>,
}

/// Applies owner, mode and time to an open file or folder.
pub(super) fn apply_metadata(fd: impl AsFd, metadata: EntryMetadata) -> nix::Result<()> {
    let EntryMetadata { owner, mode, modified } = metadata;
    // First, since chown(2) clears bits of the mode.
    if let Some(owner) = owner {
        set_owner(fd.as_fd(), owner)?;
    }
    fchmod(fd.as_fd(), mode)?;
    match modified {
        Some(seconds) => futimens(fd, &TimeSpec::UTIME_OMIT, &TimeSpec::new(seconds, 0)),
        None => Ok(()),
    }
}

/// Changes the owner of an open file or folder.
pub(super) fn set_owner(fd: impl AsFd, Owner { uid, gid }: Owner) -> nix::Result<()> {
    fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}
