//! Exclusive locks between processes: `flock` on a file that stays.
//! The kernel releases a lock when its holder ends, however that happens.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A lock on a file, held until dropped.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// The locked file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// Takes the lock on `path` if it is free. `None`: another process, or another open of the file, holds it.
pub fn try_acquire(path: &Path) -> io::Result<Option<Lock>> {
    try_lock(open(path)?).map(Result::ok)
}

/// Takes the lock on `path`. If it is held, calls `waiting` once and waits.
pub fn acquire(path: &Path, waiting: impl FnOnce()) -> io::Result<Lock> {
    match try_lock(open(path)?)? {
        Ok(lock) => Ok(lock),
        Err(file) => {
            waiting();
            block(file)
        }
    }
}

/// As [`try_acquire`], for a file that is open already. `Err(file)`: it is held elsewhere.
pub fn try_lock(file: File) -> io::Result<Result<Lock, File>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Ok(Lock(lock))),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Err(file)),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

fn block(mut file: File) -> io::Result<Lock> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(Lock(lock)),
            Err((same, Errno::EINTR)) => file = same,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_second_locker_reports_its_wait_and_gets_the_lock_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, || panic!("it is free")).unwrap();
        assert!(try_acquire(&path).unwrap().is_none());
        let (sender, receiver) = mpsc::channel();

        std::thread::scope(|scope| {
            let second = scope.spawn(|| acquire(&path, || sender.send(()).unwrap()).map(drop));
            receiver.recv().unwrap();
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
