//! Writes the entries of an untrusted archive below one folder.
//!
//! INVARIANT: the kernel resolves every path below the root and without following symbolic links
//! (`openat2`), so no entry leads out of the root, whatever entries came before.

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

use crate::archive::{Archive, Entry, EntryKind, lossy};
use crate::{Error, Result};

const MAX_DEPTH: usize = 200;

/// The largest total length of the paths in [`Tree::deferred`].
const MAX_DEFERRED: usize = 16 << 20;

/// Writes entries below a folder.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The folder of the last entry, which is usually that of the next.
    last: Option<(PathBuf, OwnedFd)>,
    /// Modes of folders that are not writable for their owner. They are set after all entries are
    /// written.
    deferred: HashMap<PathBuf, u32>,
    deferred_length: usize,
    /// The mode of the archive's entry for the root itself.
    root_mode: Option<u32>,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, last: None, deferred: HashMap::new(), deferred_length: 0, root_mode: None }
    }

    /// Unpacks an archive. Returns the mode of its entry for the root, if any.
    pub(crate) fn unpack(
        mut self,
        archive: &mut Archive<'_, impl io::BufRead>,
    ) -> Result<Option<u32>> {
        while let Some(entry) = archive.next()? {
            self.add(&entry, archive)?;
        }
        self.last = None;
        let mut deferred: Vec<_> = std::mem::take(&mut self.deferred).into_iter().collect();
        // The deepest first: paths below a folder without search permission cannot be resolved.
        deferred.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, mode) in deferred {
            self.set_mode(&path, mode).map_err(|errno| unpack_error(&path, errno))?;
        }
        Ok(self.root_mode)
    }

    fn add(&mut self, entry: &Entry, archive: &mut Archive<'_, impl io::BufRead>) -> Result<()> {
        let path = inner_path(&entry.path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            self.root_mode = (entry.kind == EntryKind::Folder).then_some(entry.mode & 0o777);
            return Ok(());
        };
        let (parent, name) = (parent.to_owned(), Path::new(name).to_owned());
        let failed = |errno: Errno| unpack_error(&path, errno);
        if entry.kind == EntryKind::Folder {
            self.make_folder(&path).map_err(failed)?;
            return self.apply_mode(&path, entry.mode & 0o777);
        }
        if let EntryKind::HardLink(target) = &entry.kind {
            let target = inner_path(target)?;
            return self.hard_link(&target, &parent, &name).map_err(failed);
        }
        let folder = self.folder(&parent).map_err(failed)?;
        // An entry replaces an earlier one of the same name.
        match unlinkat(folder, &name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if let EntryKind::Symlink(target) = &entry.kind {
            return symlinkat(target.as_slice(), folder, &name).map_err(failed);
        }
        let file = create(folder, &name).map_err(failed)?;
        let written = archive.content(|chunk| (&file).write_all(chunk))?;
        written
            .and_then(|()| finish(&file, entry))
            .map_err(|source| Error::Unpack { path: path.display().to_string(), source })
    }

    /// Opens the folder at `path`. Creates it if it does not exist.
    fn folder(&mut self, path: &Path) -> nix::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            self.make_folder(path)?;
            let opened = open_folder(&self.root, path)?;
            self.last = Some((path.to_owned(), opened));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd()))
    }

    /// Creates the folder and its parents as far as they do not exist.
    fn make_folder(&self, path: &Path) -> nix::Result<()> {
        match open_folder(&self.root, path) {
            Err(Errno::ENOENT) => {}
            other => return other.map(drop),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.make_folder(parent)?;
        mkdirat(open_folder(&self.root, parent)?, name, Mode::from_bits_truncate(0o755))
    }

    /// Sets a folder's mode, or defers it if the folder would not be writable for its owner.
    fn apply_mode(&mut self, path: &Path, mode: u32) -> Result<()> {
        self.set_mode(path, mode | 0o700).map_err(|errno| unpack_error(path, errno))?;
        if mode & 0o700 == 0o700 {
            self.deferred.remove(path);
        } else {
            self.deferred_length += path.as_os_str().len();
            if self.deferred_length > MAX_DEFERRED {
                let reason = "is one of too many folders that are not writable";
                return Err(Error::Rejected { path: path.display().to_string(), reason });
            }
            self.deferred.insert(path.to_owned(), mode);
        }
        Ok(())
    }

    fn set_mode(&self, path: &Path, mode: u32) -> nix::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let parent = open_folder(&self.root, parent)?;
        // The entry is a folder: it was opened as one, and no other process writes here.
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

/// The relative path of an entry, without `.` components. An error if it is absolute or has `..`.
fn inner_path(bytes: &[u8]) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let rejected = |reason| Err(Error::Rejected { path: lossy(bytes), reason });
    let mut inner = PathBuf::new();
    for (depth, part) in path.components().enumerate() {
        match part {
            Component::Normal(_) if depth > MAX_DEPTH => return rejected("is too deep"),
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            Component::ParentDir => return rejected("leads out of its target with `..`"),
            Component::RootDir | Component::Prefix(_) => return rejected("has an absolute path"),
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

/// Sets the mode, without set-user-ID, set-group-ID and sticky bits, and the modification time.
fn finish(file: &File, entry: &Entry) -> io::Result<()> {
    file.set_permissions(std::fs::Permissions::from_mode(entry.mode & 0o777))?;
    match UNIX_EPOCH.checked_add(Duration::from_secs(entry.mtime)) {
        // A time that the file system cannot represent is ignored.
        Some(time) => drop(file.set_modified(time)),
        None => log::debug!("ignoring an invalid modification time; mtime={}", entry.mtime),
    }
    Ok(())
}

fn unpack_error(path: &Path, errno: Errno) -> Error {
    let path = path.display().to_string();
    match errno {
        Errno::ELOOP | Errno::EXDEV => Error::Rejected { path, reason: "leads through a link" },
        Errno::ENOTDIR => {
            Error::Rejected { path, reason: "is below an entry that is not a folder" }
        }
        errno => Error::Unpack { path, source: errno.into() },
    }
}
