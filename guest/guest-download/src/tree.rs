//! Files below one folder, written by names that somebody else chose.
//!
//! INVARIANT: every path is resolved by the kernel below the root without following a symbolic
//! link (`openat2`), so no name leads out, whatever was written before.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::archive::{Archive, Entry, Kind, lossy};
use crate::{Error, Result};

/// The deepest folder.
const DEEPEST: usize = 200;

/// How long all paths of folders that get their mode later may be together.
const LATER: usize = 16 << 20;

/// A folder that is being filled.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The folder of the last entry: the next one is mostly beside it.
    last: Option<(PathBuf, OwnedFd)>,
    /// The modes of folders that their owner may not change, which must be possible until all is
    /// there.
    later: HashMap<PathBuf, u32>,
    later_length: usize,
    /// The mode that the archive has for the root itself.
    root_mode: Option<u32>,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, last: None, later: HashMap::new(), later_length: 0, root_mode: None }
    }

    /// Unpacks all of an archive; returns the mode that it has for the root, if any.
    pub(crate) fn unpack(
        mut self,
        archive: &mut Archive<'_, impl io::BufRead>,
    ) -> Result<Option<u32>> {
        while let Some(entry) = archive.next()? {
            self.add(&entry, archive)?;
        }
        self.last = None;
        let mut later: Vec<_> = std::mem::take(&mut self.later).into_iter().collect();
        // The deepest first: what is below a folder without its x cannot be reached.
        later.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, mode) in later {
            self.set_mode(&path, mode).map_err(|errno| unpack_error(&path, errno))?;
        }
        Ok(self.root_mode)
    }

    fn add(&mut self, entry: &Entry, archive: &mut Archive<'_, impl io::BufRead>) -> Result<()> {
        let path = inner_path(&entry.path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            self.root_mode = (entry.kind == Kind::Folder).then_some(entry.mode & 0o777);
            return Ok(());
        };
        let (parent, name) = (parent.to_owned(), Path::new(name).to_owned());
        let failed = |errno: Errno| unpack_error(&path, errno);
        if entry.kind == Kind::Folder {
            self.make_folder(&path).map_err(failed)?;
            return self.note_mode(&path, entry.mode & 0o777);
        }
        if let Kind::HardLink(target) = &entry.kind {
            let target = inner_path(target)?;
            return self.hard_link(&target, &parent, &name).map_err(failed);
        }
        let folder = self.folder(&parent).map_err(failed)?;
        // An entry of the same name comes instead of the earlier one.
        match unlinkat(folder, &name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if let Kind::Symlink(target) = &entry.kind {
            return symlinkat(target.as_slice(), folder, &name).map_err(failed);
        }
        let file = create(folder, &name).map_err(failed)?;
        let written = archive.content(|piece| (&file).write_all(piece))?;
        written
            .and_then(|()| finish(&file, entry))
            .map_err(|source| Error::Unpack { path: path.display().to_string(), source })
    }

    /// The folder at `path`, made if it is not there.
    fn folder(&mut self, path: &Path) -> nix::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            self.make_folder(path)?;
            let opened = open_folder(&self.root, path)?;
            self.last = Some((path.to_owned(), opened));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd()))
    }

    /// Makes the folder and those above it, as far as they are not there.
    fn make_folder(&self, path: &Path) -> nix::Result<()> {
        match open_folder(&self.root, path) {
            Err(Errno::ENOENT) => {}
            other => return other.map(drop),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.make_folder(parent)?;
        mkdirat(open_folder(&self.root, parent)?, name, Mode::from_bits_truncate(0o755))
    }

    /// Sets a folder's mode, now if it stays writable for its owner.
    fn note_mode(&mut self, path: &Path, mode: u32) -> Result<()> {
        self.set_mode(path, mode | 0o700).map_err(|errno| unpack_error(path, errno))?;
        if mode & 0o700 == 0o700 {
            self.later.remove(path);
        } else {
            self.later_length += path.as_os_str().len();
            if self.later_length > LATER {
                let reason = "is one of too many folders that are not writable";
                return Err(Error::Refused { path: path.display().to_string(), reason });
            }
            self.later.insert(path.to_owned(), mode);
        }
        Ok(())
    }

    fn set_mode(&self, path: &Path, mode: u32) -> nix::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let parent = open_folder(&self.root, parent)?;
        // What was opened as a folder is one, and nobody else writes here.
        fchmodat(&parent, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
    }

    fn hard_link(&mut self, target: &Path, parent: &Path, name: &Path) -> nix::Result<()> {
        let (Some(folder), Some(target)) = (target.parent(), target.file_name()) else {
            return Err(Errno::EISDIR);
        };
        let from = open_folder(&self.root, folder)?;
        let into = self.folder(parent)?;
        match linkat(&from, target, into, name, AtFlags::empty()) {
            Err(Errno::EEXIST) => {
                unlinkat(into, name, UnlinkatFlags::NoRemoveDir)?;
                linkat(&from, target, into, name, AtFlags::empty())
            }
            other => other,
        }
    }
}

/// The path without `.` and slashes at its ends.
fn inner_path(bytes: &[u8]) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let refused = |reason| Err(Error::Refused { path: lossy(bytes), reason });
    let mut inner = PathBuf::new();
    for (depth, part) in path.components().enumerate() {
        match part {
            Component::Normal(_) if depth > DEEPEST => return refused("is too deep"),
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refused("leads out of its target with `..`"),
            Component::RootDir | Component::Prefix(_) => return refused("has an absolute path"),
        }
    }
    Ok(inner)
}

fn open_folder(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, path, how)
}

fn create(folder: BorrowedFd<'_>, name: &Path) -> nix::Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(folder, name, flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

/// Gives a written file its mode, without set-user-id and the like, and its time.
fn finish(file: &File, entry: &Entry) -> io::Result<()> {
    file.set_permissions(std::fs::Permissions::from_mode(entry.mode & 0o777))?;
    match UNIX_EPOCH.checked_add(Duration::from_secs(entry.mtime)) {
        // A time that the file system cannot have is no reason to fail.
        Some(time) => drop(file.set_modified(time)),
        None => log::debug!("a file's time makes no sense; mtime={}", entry.mtime),
    }
    Ok(())
}

fn unpack_error(path: &Path, errno: Errno) -> Error {
    let path = path.display().to_string();
    match errno {
        Errno::ELOOP | Errno::EXDEV => Error::Refused { path, reason: "leads through a link" },
        Errno::ENOTDIR => Error::Refused { path, reason: "is below something that is no folder" },
        errno => Error::Unpack { path, source: errno.into() },
    }
}
