//! Ownership of networks among all runners of this host: locks on single bytes of one file.
//!
//! Byte n stands for the network with the base address n, so ranges may differ and overlap. The kernel
//! releases a lock when its owner dies.
//!
//! | byte | lock |
//! |---|---|
//! | a network's base address | exclusive, by the pool that owns the network |
//! | `USERS` | shared by each living pool; exclusive to find out that no pool is alive |
//! | `SETUP` | exclusive, while a pool starts, stops or collects garbage |

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

/// The open lock file. Clones are the same owner of locks; opening the file again is another owner.
#[derive(Debug, Clone)]
pub(crate) struct Locks {
    file: Arc<File>,
    path: PathBuf,
}

/// The lock on one byte, released when dropped.
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

    /// Locks a network; `None` if a pool owns it, also if that is this pool.
    pub(crate) fn try_lock(&self, addresses: Addresses) -> Result<Option<Lock>> {
        if self.is_locked(addresses)? {
            return Ok(None);
        }
        // A new open of the file, since one owner could lock the same byte twice.
        Self::open(&self.path)?.lock(addresses.number().into(), libc::F_WRLCK)
    }

    /// Whether a pool owns a network.
    pub(crate) fn is_locked(&self, addresses: Addresses) -> Result<bool> {
        let mut probe = record(libc::F_WRLCK, addresses.number().into());
        fcntl(&*self.file, FcntlArg::F_OFD_GETLK(&mut probe)).map_err(|e| self.failed(e))?;
        Ok(probe.l_type != libc::F_UNLCK as libc::c_short)
    }

    /// Waits until no pool starts, stops or collects garbage, which takes milliseconds.
    pub(crate) fn lock_setup(&self) -> Result<Lock> {
        self.wait(SETUP, libc::F_WRLCK)
    }

    /// The device and inode number of the file.
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

    /// Becomes a user. Waits while another pool holds the exclusive lock.
    pub(crate) fn join(&self) -> Result<Lock> {
        self.wait(USERS, libc::F_RDLCK)
    }

    /// The exclusive lock on `USERS`; `None` if another pool is alive.
    pub(crate) fn try_exclusive(&self) -> Result<Option<Lock>> {
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
            log::error!("cannot release a lock before this process ends; fd={fd} error={errno}");
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

        let lock = ours.try_lock(slot).unwrap().unwrap();

        assert!(theirs.try_lock(slot).unwrap().is_none());
        assert!(theirs.is_locked(slot).unwrap());
        assert!(!theirs.is_locked(Range::default().slot(8)).unwrap());
        drop(lock);
        assert!(theirs.try_lock(slot).unwrap().is_some());
    }

    #[test]
    fn the_exclusive_lock_fails_while_another_pool_has_joined() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.lock");
        let (ours, theirs) = (Locks::open(&path).unwrap(), Locks::open(&path).unwrap());

        let us = ours.join().unwrap();
        let them = theirs.join().unwrap();

        assert!(ours.try_exclusive().unwrap().is_none());
        drop(them);
        let alone = ours.try_exclusive().unwrap();
        assert!(alone.is_some() && theirs.try_exclusive().unwrap().is_none());
        drop((us, alone));
    }
}
