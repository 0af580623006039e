//! The entries of a stage, moved into a target that is there: all of them, or none.
//!
//! What is new is renamed, what has the name of something else is exchanged with it, folders that are
//! in both are merged. Each step is noted; if one fails, those before are undone, the last first.
//!
//! A folder without write permission (0555) cannot be moved, since its `..` is written, and nothing
//! can be moved into it or out of it. It is opened for its owner meanwhile.
//!
//! Only what overlayfs cannot exchange (a folder of a lower layer: EXDEV) is removed before its
//! successor is renamed, and cannot be brought back.

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

/// What a folder's owner needs to change what is in it.
const OPEN: u32 = 0o700;

/// Moves all that is in `stage` into `target`.
pub(crate) fn merge(stage: OwnedFd, target: OwnedFd) -> nix::Result<()> {
    let mut merge = Merge { stage, target, done: Vec::new() };
    merge.folder(Path::new("")).inspect_err(|_| merge.undo())
}

struct Merge {
    stage: OwnedFd,
    target: OwnedFd,
    done: Vec<Step>,
}

/// What was done, below both folders.
enum Step {
    Moved(PathBuf),
    Exchanged(PathBuf),
    /// A folder of the target has another mode; it had this one.
    Mode(PathBuf, u32),
}

/// A folder on both sides.
struct Sides {
    stage: OwnedFd,
    target: OwnedFd,
}

impl Merge {
    fn sides(&self, path: &Path) -> nix::Result<Sides> {
        Ok(Sides { stage: open(&self.stage, path)?, target: open(&self.target, path)? })
    }

    /// Moves what is in a folder that both have.
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
                self.both(sides, name, path, (mode(&new), mode(&old)))
            }
            (_, None) => {
                exchange(sides.stage.as_fd(), sides.target.as_fd(), name, Existing::Stays)?;
                self.done.push(Step::Moved(path));
                Ok(())
            }
            (_, Some(_)) => self.replace(sides, name, path),
        }
    }

    /// Merges a folder that both have; it gets the mode of the new one.
    fn both(
        &mut self,
        sides: &Sides,
        name: &CStr,
        path: PathBuf,
        (new, old): (u32, u32),
    ) -> nix::Result<()> {
        if new & OPEN != OPEN {
            set_mode(sides.stage.as_fd(), name, new | OPEN)?;
        }
        if old & OPEN != OPEN {
            set_mode(sides.target.as_fd(), name, old | OPEN)?;
        }
        self.done.push(Step::Mode(path.clone(), old));
        self.folder(&path)?;
        // Undone first: what is in the folder can only be moved out of it while it is open.
        self.done.push(Step::Mode(path, old | OPEN));
        match set_mode(sides.target.as_fd(), name, new) {
            // It is somebody else's, who lets us write to it.
            Err(Errno::EPERM) => Ok(()),
            done => done,
        }
    }

    fn replace(&mut self, sides: &Sides, name: &CStr, path: PathBuf) -> nix::Result<()> {
        let (stage, target) = (sides.stage.as_fd(), sides.target.as_fd());
        match exchange(stage, target, name, Existing::IsExchanged) {
            Err(Errno::EXDEV) => {
                remove_in(target, name)?;
                exchange(stage, target, name, Existing::Stays)
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
                log::error!("{} is not what it was before: {}", path.display(), errno.desc());
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
            Step::Moved(_) => exchange(target, stage, &name, Existing::Stays),
            Step::Exchanged(_) => exchange(stage, target, &name, Existing::IsExchanged),
            Step::Mode(_, mode) => set_mode(target, &name, *mode),
        }
    }
}

/// Renames, with folders on either side opened for it. Each has the mode afterwards that it had.
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

/// Opens a folder that could not be moved; returns the mode that it had.
fn unlock(at: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<u32>> {
    let locked = stat(at, name)?.filter(|stat| is_folder(stat) && mode(stat) & 0o200 == 0);
    let Some(stat) = locked else { return Ok(None) };
    set_mode(at, name, mode(&stat) | OPEN)?;
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

/// Of a folder, as was just seen; nobody else writes here.
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

/// Opens a folder below, not through links.
fn open(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, path, how)
}

/// Removes a folder of that one, with all in it; a link of this name would go, not what it leads to.
fn remove_in(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let folder = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let path = Path::new(&folder).join(OsStr::from_bytes(name.to_bytes()));
    remove(&path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
}
