//! The files of a run: `$HOME/.vm0/guest-agent/runs/<run>/`.
//!
//! INVARIANT: the folders are 0700, the files 0600, and no symbolic link below the home is
//! followed, so that what an agent of an earlier run planted there leads nowhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::{Error, Result};

/// Where runs are, below the home.
const PLACE: [&str; 3] = [".vm0", "guest-agent", "runs"];

/// A run's folder, open.
#[derive(Debug)]
pub struct RunFolder {
    folder: OwnedFd,
    path: PathBuf,
}

impl RunFolder {
    /// The folder of the run `id` below `home`, made if it is not there.
    pub fn open(home: &Path, id: &str) -> Result<Self> {
        let path = PLACE.iter().fold(home.to_owned(), |path, part| path.join(part)).join(id);
        let failed = |source: io::Error| Error::Create { path: path.clone(), source };
        if id.is_empty() || id.contains('/') || id.starts_with('.') {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not the id of a run")));
        }
        let mut folder = open(home, DIRECTORY & !OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        for part in PLACE.into_iter().chain([id]) {
            folder = step_into(&folder, part).map_err(|errno| failed(errno.into()))?;
        }
        fchmod(&folder, PRIVATE).map_err(|errno| failed(errno.into()))?;
        Ok(Self { folder, path })
    }

    /// The folder that a run has elsewhere, made if it is not there.
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

    /// The folder of the run that this process's environment names, if it names one.
    pub fn from_env() -> Option<Result<Self>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("VM0_GUEST_RUNTIME_DIR") {
            return Some(Self::at(Path::new(&path)));
        }
        let (home, id) = (variable("HOME")?, variable("VM0_RUN_ID")?);
        Some(Self::open(Path::new(&home), &id.to_string_lossy()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file to append to, made if it is not there, for reading too.
    pub fn append(&self, name: &str) -> Result<File> {
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND)
    }

    /// A file for writing and reading, empty at first.
    pub fn create(&self, name: &str) -> Result<File> {
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC)
    }

    /// A file that nobody else sees, gone when it is closed.
    pub fn scratch(&self, name: &str) -> Result<File> {
        let file = self.create(name)?;
        // One that stays is seen by nobody but the owner, too.
        let _ = unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir);
        Ok(file)
    }

    /// A file of this content, whole or not at all, on disk when this returns.
    pub fn write(&self, name: &'static str, content: &[u8]) -> Result<()> {
        self.draft(name, 0)?.finish(content)
    }

    /// A file that is written later, for which there is room now: a disk that is full by then takes
    /// `room` bytes all the same.
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

/// A file that gets its content and its name later.
#[derive(Debug)]
pub struct Draft<'a> {
    folder: &'a RunFolder,
    name: &'static str,
    file: File,
}

impl Draft<'_> {
    /// Gives it both, whole or not at all, on disk when this returns.
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

/// Reserves room for a file's first bytes, beyond its end, as far as its file system can.
pub fn allocate(file: &File, bytes: u64) {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    if length == 0 {
        return;
    }
    // FALLOC_FL_KEEP_SIZE: what reads the file sees no difference.
    if let Err(errno) = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        log::debug!("no room is reserved; bytes={bytes} error={errno}");
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
    fn folders_and_files_are_for_their_owner_only() {
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
    fn a_planted_link_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), home.path().join(".vm0")).unwrap();
        RunFolder::open(home.path(), "r1").unwrap_err();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_planted_link_in_place_of_a_file_is_not_followed() {
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
    fn an_id_that_leads_elsewhere_is_refused() {
        let home = tempfile::tempdir().unwrap();
        for id in ["", "..", "../../x", "/etc", ".hidden"] {
            assert!(RunFolder::open(home.path(), id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_draft_is_seen_when_it_is_finished_and_holds_its_room_until_then() {
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
