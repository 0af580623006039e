//! Who this runner is, from one start to the next; and that there is one of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result, file};

/// The right to serve a state folder, for as long as it is there.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// An error if another process has it.
    pub(crate) fn take(state_dir: &Path) -> Result<Self> {
        fs::create_dir_all(state_dir).map_err(file("make", state_dir))?;
        let path = state_dir.join("service.lock");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let opened = options.open(&path).map_err(file("open", &path))?;
        let locked = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            // A process that a dead one was just starting has its files for a moment.
            Err((opened, Errno::EWOULDBLOCK)) if is_of_the_dead(&opened) => {
                Flock::lock(opened, FlockArg::LockExclusive)
            }
            other => other,
        };
        let lock = locked.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Error::Served { path: state_dir.to_owned() },
            errno => file::<io::Error>("lock", &path)(errno.into()),
        })?;
        let pid = std::process::id().to_string();
        let signed = lock.set_len(0).and_then(|()| lock.write_all_at(pid.as_bytes(), 0));
        signed.map_err(file("write", &path))?;
        Ok(Self { _file: lock })
    }
}

/// Whether the process that signed a lock is no more.
fn is_of_the_dead(lock: &File) -> bool {
    let mut pid = [0; 20];
    let length = lock.read_at(&mut pid, 0).unwrap_or_default();
    let pid = pid.get(..length).and_then(|pid| std::str::from_utf8(pid).ok());
    let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The runner's name among machines.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: Uuid,
    /// How often it was started.
    pub(crate) generation: u64,
}

impl Identity {
    /// That of a state folder, which is thereby started once more.
    pub(crate) fn next(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("runner.json");
        let known = match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|source| Error::Record { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self { id: Uuid::new_v4(), generation: 0 }
            }
            Err(source) => return Err(file("read", &path)(source)),
        };
        let next = Self { generation: known.generation + 1, ..known };
        next.write(&path)?;
        Ok(next)
    }

    fn write(&self, path: &PathBuf) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|source| Error::Json { source })?;
        let draft = path.with_extension("draft");
        let write = || {
            fs::write(&draft, &json)?;
            File::open(&draft)?.sync_all()?;
            fs::rename(&draft, path)
        };
        write().map_err(file("write", path))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn a_state_folder_is_served_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        assert!(matches!(Lock::take(folder.path()), Err(Error::Served { .. })));
        drop(lock);
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn what_a_dead_runner_was_just_starting_is_no_runner() {
        let folder = tempfile::tempdir().unwrap();
        drop(Lock::take(folder.path()).unwrap());
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let path = folder.path().join("service.lock");
        fs::write(&path, dead.id().to_string()).unwrap();
        let file = File::open(path).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno);
        thread::scope(|scope| {
            let taken = scope.spawn(|| Lock::take(folder.path()));
            drop(held.unwrap());
            taken.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_id_stays_and_starts_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::next(folder.path()).unwrap();
        let second = Identity::next(folder.path()).unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!((first.generation, second.generation), (1, 2));
    }
}
