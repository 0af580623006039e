//! Which networks are in use, of all runners on this host: locks on the bytes of one file.
//!
//! Byte n stands for the network whose addresses begin with the number n, so ranges that differ or
//! overlap make no difference. The kernel lets go of a lock when its owner dies.
//!
//! | byte | held |
//! |---|---|
//! | a network's number | exclusively by the pool that has it, as long as it has it |
//! | `USERS` | shared by each pool as long as it lives; exclusively by the one that is alone |
//! | `SETUP` | exclusively while a pool comes, goes, or clears up |

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::Result;
use crate::error::file;
use crate::range::Addresses;

const USERS: i64 = 1 << 40;
const SETUP: i64 = USERS + 1;

/// The file of locks, opened. Clones are the same owner; opening it once more is another.
#[derive(Debug, Clone)]
pub(crate) struct Locks {
    file: Arc<File>,
    path: PathBuf,
}

/// The lock on one byte. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    locks: Locks,
    byte: i64,
}

impl Locks {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = open(path)?;
        Ok(Self { file: Arc::new(opened), path: path.to_owned() })
    }

    /// Takes a network, unless some pool has it, this one included.
    pub(crate) fn take(&self, addresses: Addresses) -> Result<Option<Lock>> {
        if self.is_taken(addresses)? {
            return Ok(None);
        }
        // Opened once more, since who has a lock may take it again.
        Self::open(&self.path)?.lock(addresses.number().into(), libc::F_WRLCK)
    }

    /// Whether some pool has a network.
    pub(crate) fn is_taken(&self, addresses: Addresses) -> Result<bool> {
        let mut probe = record(libc::F_WRLCK, addresses.number().into());
        fcntl(&*self.file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(|e| self.failed(e))?;
        Ok(probe.l_type != libc::F_UNLCK as libc::c_short)
    }

    /// Waits until nobody else comes, goes, or clears up. All of that takes milliseconds.
    pub(crate) fn set_up(&self) -> Result<Lock> {
        self.wait(SETUP, libc::F_WRLCK)
    }

    /// What tells this file from every other.
    pub(crate) fn identity(&self) -> Result<[u8; 16]> {
        let metadata = self.file.metadata().map_err(file("examine", &self.path))?;
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&metadata.dev().to_be_bytes());
        identity[8..].copy_from_slice(&metadata.ino().to_be_bytes());
        Ok(identity)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn wait(&self, byte: i64, kind: libc::c_int) -> Result<Lock> {
        loop {
            match fcntl(&*self.file, FcntlArg::F_OFD_SETLKW(&record(kind, byte))) {
                Ok(_) => return Ok(self.held(byte)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    /// Becomes one of the users. Waits for who looks whether there are any.
    pub(crate) fn join(&self) -> Result<Lock> {
        self.wait(USERS, libc::F_RDLCK)
    }

    /// Becomes the only user, unless there are others.
    pub(crate) fn be_alone(&self) -> Result<Option<Lock>> {
        self.lock(USERS, libc::F_WRLCK)
    }

    fn lock(&self, byte: i64, kind: libc::c_int) -> Result<Option<Lock>> {
        match fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&record(kind, byte))) {
            Ok(_) => Ok(Some(self.held(byte))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    fn held(&self, byte: i64) -> Lock {
        Lock { locks: self.clone(), byte }
    }

    fn failed(&self, errno: Errno) -> crate::Error {
        file("lock", &self.path)(io::Error::from(errno))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let nothing = record(libc::F_UNLCK, self.byte);
        if let Err(errno) = fcntl(&*self.locks.file, FcntlArg::F_OFD_SETLK(&nothing)) {
            let fd = self.locks.file.as_raw_fd();
            log::error!("a lock stays until this process ends; fd={fd} error={errno}");
        }
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o755).create(folder);
        made.map_err(file("create", folder))?;
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(file("open", path))
}

fn record(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Range;

    #[test]
    fn a_network_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/network.lock");
        let (ours, theirs) = (Locks::open(&path).unwrap(), Locks::open(&path).unwrap());
        let slot = Range::default().slot(7);

        let lock = ours.take(slot).unwrap().unwrap();

        assert!(theirs.take(slot).unwrap().is_none());
        assert!(theirs.is_taken(slot).unwrap());
        assert!(!theirs.is_taken(Range::default().slot(8)).unwrap());
        drop(lock);
        assert!(theirs.take(slot).unwrap().is_some());
    }

    #[test]
    fn only_who_has_no_company_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.lock");
        let (ours, theirs) = (Locks::open(&path).unwrap(), Locks::open(&path).unwrap());

        let us = ours.join().unwrap();
        let them = theirs.join().unwrap();

        assert!(ours.be_alone().unwrap().is_none());
        drop(them);
        let alone = ours.be_alone().unwrap();
        assert!(alone.is_some() && theirs.be_alone().unwrap().is_none());
        drop((us, alone));
    }
}
