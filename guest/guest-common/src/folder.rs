//! The files of a run: `$HOME/.vm0/guest-agent/runs/<run>/`.
//!
//! INVARIANT: folders have mode 0700 and files 0600. Symbolic links below the home are not followed:
//! the agent of an earlier run may have planted one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use contract::env;
use contract::guest::RUNS;

use crate::{Error, Result};

/// The open folder of a run.
#[derive(Debug)]
pub struct RunFolder {
    folder: OwnedFd,
    path: PathBuf,
}

impl RunFolder {
    /// Opens the folder of the run `id` below `home`. Creates it if it does not exist.
    pub fn open(home: &Path, id: &str) -> Result<Self> {
        let path = home.join(RUNS).join(id);
        let failed = |source: io::Error| Error::Create { path: path.clone(), source };
        if id.is_empty() || id.contains('/') || id.starts_with('.') {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not the id of a run")));
        }
        let mut folder = open(home, DIRECTORY & !OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        for part in RUNS.split('/').chain([id]) {
            folder = step_into(&folder, part).map_err(|errno| failed(errno.into()))?;
        }
        fchmod(&folder, PRIVATE).map_err(|errno| failed(errno.into()))?;
        Ok(Self { folder, path })
    }

    /// Opens a run's folder at any path. Creates it if it does not exist.
    pub fn at(path: &Path) -> Result<Self> {
        let failed = |errno: Errno| Error::Create { path: path.to_owned(), source: errno.into() };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(Errno::EINVAL));
        };
        let parent = open(parent, DIRECTORY & !OFlag::O_NOFOLLOW, Mode::empty()).map_err(failed)?;
        let folder = step_into(&parent, name).map_err(failed)?;
        fchmod(&folder, PRIVATE).map_err(failed)?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// Opens the run's folder that this process's environment names, if any.
    pub fn from_env() -> Option<Result<Self>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable(env::GUEST_RUNTIME_DIR) {
            return Some(Self::at(Path::new(&path)));
        }
        let (home, id) = (variable("HOME")?, variable(env::RUN_ID)?);
        Some(Self::open(Path::new(&home), &id.to_string_lossy()))
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file for appending and reading. Creates it if it does not exist.
    pub fn append(&self, name: &str) -> Result<File> {
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND)
    }

    /// Creates an empty file for writing and reading.
    pub fn create(&self, name: &str) -> Result<File> {
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC)
    }

    /// Creates an unlinked file for writing and reading. The kernel removes it when it is closed.
    pub fn scratch(&self, name: &str) -> Result<File> {
        let file = self.create(name)?;
        // If this fails the file stays, readable by its owner only.
        let _ = unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir);
        Ok(file)
    }

    /// Writes a file atomically. It is on disk when this returns.
    pub fn write(&self, name: &'static str, content: &[u8]) -> Result<()> {
        self.draft(name, 0)?.finish(content)
    }

    /// Creates a file that is written later, and reserves `room` bytes for it in case the disk fills up.
    pub fn draft(&self, name: &'static str, room: u64) -> Result<Draft<'_>> {
        let file = self.create(&draft_of(name))?;
        allocate(&file, room);
        Ok(Draft { folder: self, name, file })
    }

    fn open_file(&self, name: &str, flags: OFlag) -> Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        openat(&self.folder, name, flags, Mode::from_bits_truncate(0o600))
            .map(File::from)
            .map_err(|errno| Error::Create { path: self.path.join(name), source: errno.into() })
    }
}

/// A file without its final content and name.
#[derive(Debug)]
pub struct Draft<'a> {
    folder: &'a RunFolder,
    name: &'static str,
    file: File,
}

impl Draft<'_> {
    /// Writes the content and renames the file, atomically. It is on disk when this returns.
    pub fn finish(mut self, content: &[u8]) -> Result<()> {
        let RunFolder { folder, path } = self.folder;
        let failed = |source| Error::Write { path: path.join(self.name), source };
        self.file.write_all(content).and_then(|()| self.file.sync_all()).map_err(failed)?;
        renameat(folder, draft_of(self.name).as_str(), folder, self.name)
            .map_err(|errno| failed(errno.into()))
    }
}

fn draft_of(name: &str) -> String {
    format!(".{name}.new")
}

/// Reserves disk space for a file's first bytes without changing its length. Best effort.
pub fn allocate(file: &File, bytes: u64) {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    if length == 0 {
        return;
    }
    // FALLOC_FL_KEEP_SIZE: readers of the file see no difference.
    if let Err(errno) = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        log::debug!("cannot reserve disk space; bytes={bytes} error={errno}");
    }
}

const PRIVATE: Mode = Mode::S_IRWXU;

const DIRECTORY: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

fn step_into(folder: impl AsFd, name: impl AsRef<OsStr>) -> nix::Result<OwnedFd> {
    let name = name.as_ref();
    match mkdirat(&folder, name, PRIVATE) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(&folder, name, DIRECTORY, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_can_read_folders_and_files() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(home.path(), "r1").unwrap();
        folder.append("log").unwrap();
        folder.write("outcome", b"x").unwrap();
        assert_eq!(mode(&home.path().join(".vm0")), 0o700);
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.path().join("log")), 0o600);
        assert_eq!(mode(&folder.path().join("outcome")), 0o600);
    }

    #[test]
    fn a_symbolic_link_in_place_of_a_folder_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), home.path().join(".vm0")).unwrap();
        RunFolder::open(home.path(), "r1").unwrap_err();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_symbolic_link_in_place_of_a_file_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(home.path(), "r1").unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, folder.path().join("log")).unwrap();
        folder.append("log").unwrap_err();
        folder.write("log", b"whole").unwrap();
        assert_eq!(fs::read(victim).unwrap(), b"mine");
        assert_eq!(fs::read(folder.path().join("log")).unwrap(), b"whole");
    }

    #[test]
    fn a_run_id_that_is_a_path_is_rejected() {
        let home = tempfile::tempdir().unwrap();
        for id in ["", "..", "../../x", "/etc", ".hidden"] {
            assert!(RunFolder::open(home.path(), id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_draft_reserves_disk_space_and_appears_when_it_is_finished() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(home.path(), "r1").unwrap();
        let draft = folder.draft("outcome", 32 << 10).unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&draft.file.metadata().unwrap());
        assert!(blocks * 512 >= 32 << 10, "{blocks}");
        assert!(!folder.path().join("outcome").exists());
        draft.finish(b"done").unwrap();
        assert_eq!(fs::read(folder.path().join("outcome")).unwrap(), b"done");
    }
}
