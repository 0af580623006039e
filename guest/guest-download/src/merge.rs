//! Moves the entries of a stage into an existing target: all of them, or none.
//!
//! New entries are renamed, existing ones are exchanged (`RENAME_EXCHANGE`), folders that exist on both
//! sides are merged. Each step is recorded; if one fails, the earlier steps are undone in reverse order.
//!
//! A folder without write permission (0555) cannot be moved, since a move updates its `..`; nor can
//! entries be moved into or out of it. It gets owner permissions for the duration of the move.
//!
//! Exception: overlayfs cannot exchange a folder of a lower layer (EXDEV). It is removed before the new
//! folder is renamed, and cannot be restored.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat};

use crate::stage::remove;
use crate::sys::{Existing, rename};

/// The permissions that a folder's owner needs to change its entries.
const OWNER_RWX: u32 = 0o700;

/// Moves all entries of `stage` into `target`.
pub(crate) fn merge(stage: OwnedFd, target: OwnedFd) -> nix::Result<()> {
    let mut merge = Merge { stage, target, done: Vec::new() };
    merge.folder(Path::new("")).inspect_err(|_| merge.undo())
}

struct Merge {
    stage: OwnedFd,
    target: OwnedFd,
    done: Vec<Step>,
}

/// A completed step. Paths are relative to both folders.
enum Step {
    Moved(PathBuf),
    Exchanged(PathBuf),
    /// The mode of a folder of the target was changed; this is the old one.
    Mode(PathBuf, u32),
}

/// A folder of the stage and its counterpart in the target.
struct Sides {
    stage: OwnedFd,
    target: OwnedFd,
}

impl Merge {
    fn sides(&self, path: &Path) -> nix::Result<Sides> {
        Ok(Sides { stage: open(&self.stage, path)?, target: open(&self.target, path)? })
    }

    /// Moves the entries of a folder that exists on both sides.
    fn folder(&mut self, path: &Path) -> nix::Result<()> {
        let sides = self.sides(path)?;
        for name in names(&sides.stage)? {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(&sides, &name, path)?;
        }
        Ok(())
    }

    fn entry(&mut self, sides: &Sides, name: &CStr, path: PathBuf) -> nix::Result<()> {
        let new = stat(sides.stage.as_fd(), name)?;
        let old = stat(sides.target.as_fd(), name)?;
        match (new, old) {
            (Some(new), Some(old)) if is_folder(&new) && is_folder(&old) => {
                self.merge_folder(sides, name, path, (mode(&new), mode(&old)))
            }
            (_, None) => {
                exchange(sides.stage.as_fd(), sides.target.as_fd(), name, Existing::Fail)?;
                self.done.push(Step::Moved(path));
                Ok(())
            }
            (_, Some(_)) => self.replace(sides, name, path),
        }
    }

    /// Merges a folder that exists on both sides. It gets the mode of the new one.
    fn merge_folder(
        &mut self,
        sides: &Sides,
        name: &CStr,
        path: PathBuf,
        (new, old): (u32, u32),
    ) -> nix::Result<()> {
        if new & OWNER_RWX != OWNER_RWX {
            set_mode(sides.stage.as_fd(), name, new | OWNER_RWX)?;
        }
        if old & OWNER_RWX != OWNER_RWX {
            set_mode(sides.target.as_fd(), name, old | OWNER_RWX)?;
        }
        self.done.push(Step::Mode(path.clone(), old));
        self.folder(&path)?;
        // An undo reverts this first: entries can only be moved out while the owner has permissions.
        self.done.push(Step::Mode(path, old | OWNER_RWX));
        match set_mode(sides.target.as_fd(), name, new) {
            // The folder belongs to another user; its mode stays.
            Err(Errno::EPERM) => Ok(()),
            done => done,
        }
    }

    fn replace(&mut self, sides: &Sides, name: &CStr, path: PathBuf) -> nix::Result<()> {
        let (stage, target) = (sides.stage.as_fd(), sides.target.as_fd());
        match exchange(stage, target, name, Existing::Exchange) {
            Err(Errno::EXDEV) => {
                remove_in(target, name)?;
                exchange(stage, target, name, Existing::Fail)
            }
            done => {
                done?;
                self.done.push(Step::Exchanged(path));
                Ok(())
            }
        }
    }

    fn undo(&mut self) {
        while let Some(step) = self.done.pop() {
            let (Step::Moved(path) | Step::Exchanged(path) | Step::Mode(path, _)) = &step;
            let undone = self.undo_one(&step, path);
            if let Err(errno) = undone {
                log::error!("cannot restore {}: {}", path.display(), errno.desc());
            }
        }
    }

    fn undo_one(&self, step: &Step, path: &Path) -> nix::Result<()> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EINVAL);
        };
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let sides = self.sides(folder)?;
        let (stage, target) = (sides.stage.as_fd(), sides.target.as_fd());
        match step {
            Step::Moved(_) => exchange(target, stage, &name, Existing::Fail),
            Step::Exchanged(_) => exchange(stage, target, &name, Existing::Exchange),
            Step::Mode(_, mode) => set_mode(target, &name, *mode),
        }
    }
}

/// Renames an entry. Folders on either side get owner permissions for it, and their modes back after it.
fn exchange(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &CStr,
    existing: Existing,
) -> nix::Result<()> {
    let new = unlock(from, name)?;
    let old = unlock(into, name)?;
    let renamed = rename(from, into, name, existing);
    let (new_at, old_at) = if renamed.is_ok() { (into, from) } else { (from, into) };
    let lock = |at, mode: Option<u32>| mode.map_or(Ok(()), |mode| set_mode(at, name, mode));
    let locked = lock(new_at, new).and(lock(old_at, old));
    renamed.and(locked)
}

/// Gives a folder without write permission owner permissions. Returns its old mode.
fn unlock(at: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<u32>> {
    let locked = stat(at, name)?.filter(|stat| is_folder(stat) && mode(stat) & 0o200 == 0);
    let Some(stat) = locked else { return Ok(None) };
    set_mode(at, name, mode(&stat) | OWNER_RWX)?;
    Ok(Some(mode(&stat)))
}

fn stat(at: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<FileStat>> {
    match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(None),
        found => found.map(Some),
    }
}

fn is_folder(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

fn mode(stat: &FileStat) -> u32 {
    stat.st_mode & 0o7777
}

/// Sets the mode of a folder. The caller has checked that it is no link, and no other process writes here.
fn set_mode(at: BorrowedFd<'_>, name: &CStr, mode: u32) -> nix::Result<()> {
    fchmodat(at, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
}

fn names(folder: &OwnedFd) -> nix::Result<Vec<CString>> {
    let mut folder = Dir::openat(folder, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Opens a folder below `root` without following links.
fn open(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, path, how)
}

/// Removes an entry of a folder recursively. Does not follow it if it is a link.
fn remove_in(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let folder = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let path = Path::new(&folder).join(OsStr::from_bytes(name.to_bytes()));
    remove(&path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
}
