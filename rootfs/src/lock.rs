//! Exclusive locks between processes: `flock` on a file that stays.
//! The kernel drops a lock with its holder, however that one ends.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Result};

/// Held until dropped.
pub(crate) struct Lock(#[expect(dead_code, reason = "dropping it unlocks")] Flock<File>);

/// Takes the lock, after calling `waiting` once if someone else holds it.
pub(crate) fn acquire(path: &Path, waiting: impl FnOnce()) -> Result<Lock> {
    let fail = |source| Error::Lock { path: path.to_owned(), source };
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(fail)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((file, Errno::EWOULDBLOCK)) => {
            waiting();
            block(file).map(Lock).map_err(|errno| fail(errno.into()))
        }
        Err((_, errno)) => Err(fail(errno.into())),
    }
}

fn block(mut file: File) -> nix::Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EINTR)) => file = same,
            Err((_, errno)) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn second_taker_says_that_it_waits_and_gets_the_lock_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, || panic!("nobody holds it")).unwrap();
        let (sender, receiver) = mpsc::channel();

        thread::scope(|scope| {
            let second = scope.spawn(|| acquire(&path, || sender.send(()).unwrap()).map(drop));
            receiver.recv().unwrap();
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
