//! The runner's persistent identity, and the lock that allows one service per state folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use base::durable;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::journal::durable_error;
use crate::error::{Error, Result, file};

/// The exclusive lock of a state folder, held until dropped.
#[derive(Debug)]
pub struct ServiceLock {
    _lock: Flock<File>,
}

impl ServiceLock {
    /// Takes the lock. An error if another process holds it.
    pub fn take(state_dir: &Path) -> Result<Self> {
        fs::create_dir_all(state_dir).map_err(file("create", state_dir))?;
        let path = state_dir.join("service.lock");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let opened = options.open(&path).map_err(file("open", &path))?;
        let locked = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            // A child that a dead runner has just forked keeps the lock until it calls execve(2).
            Err((opened, Errno::EWOULDBLOCK)) if holder_is_dead(&opened) => {
                Flock::lock(opened, FlockArg::LockExclusive)
            }
            other => other,
        };
        let lock = locked.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Error::Served { path: state_dir.to_owned() },
            errno => file::<io::Error>("lock", &path)(errno.into()),
        })?;
        let pid = std::process::id().to_string();
        let written = lock.set_len(0).and_then(|()| lock.write_all_at(pid.as_bytes(), 0));
        written.map_err(file("write", &path))?;
        Ok(Self { _lock: lock })
    }
}

/// Whether the process whose PID is in the lock file is dead.
fn holder_is_dead(lock: &File) -> bool {
    let mut pid = [0; 20];
    let length = lock.read_at(&mut pid, 0).unwrap_or_default();
    let pid = pid.get(..length).and_then(|pid| std::str::from_utf8(pid).ok());
    let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The runner's identity, which heartbeats report.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RunnerIdentity {
    pub(crate) id: Uuid,
    /// The number of starts.
    pub(crate) generation: u64,
}

impl RunnerIdentity {
    /// Reads the identity of a state folder, or creates it, and increments its generation.
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

    fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|source| Error::Json { source })?;
        durable::write(path, &json).map_err(durable_error)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn a_second_lock_on_a_state_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let lock = ServiceLock::take(folder.path()).unwrap();
        assert!(matches!(ServiceLock::take(folder.path()), Err(Error::Served { .. })));
        drop(lock);
        ServiceLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_lock_held_by_a_child_of_a_dead_runner_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        drop(ServiceLock::take(folder.path()).unwrap());
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let path = folder.path().join("service.lock");
        fs::write(&path, dead.id().to_string()).unwrap();
        let file = File::open(path).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno);
        thread::scope(|scope| {
            let taken = scope.spawn(|| ServiceLock::take(folder.path()));
            drop(held.unwrap());
            taken.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_id_persists_and_each_start_increments_the_generation() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunnerIdentity::next(folder.path()).unwrap();
        let second = RunnerIdentity::next(folder.path()).unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!((first.generation, second.generation), (1, 2));
    }
}
