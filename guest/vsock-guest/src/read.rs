//! Sending a tree of files to the host.
//!
//! Names are sorted, and a folder precedes its entries. Symbolic links are not followed. Further names
//! of a file are hard links to its first. Holes stay holes. A socket, FIFO or device in a folder is
//! sent by name only, so that the host can report it as skipped; as the top it is an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::vec;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{Whence, lseek64};
use serde_bytes::ByteBuf;
use vsock_proto::{CHUNK, Entry, EntryKind, Failure, Owner, Read, Special};

use crate::failure::{failed, refused};
use crate::transfer::{Event, Port};

/// Sends the tree at the path of `request` through `port`.
pub(crate) fn read(port: &Port, request: &Read) -> Result<(), Failure> {
    let path = Path::new(OsStr::from_bytes(&request.path));
    if !path.is_absolute() {
        return Err(failed("read", path)(Errno::EINVAL));
    }
    let walk = Walk { port, top: path, links: RefCell::default() };
    let stat = fstatat(AT_FDCWD, path, AtFlags::empty()).map_err(failed("read", path))?;
    let mut folders = Vec::new();
    match kind(&stat) {
        SFlag::S_IFREG => {
            let file = open(AT_FDCWD, path, OFlag::empty()).map_err(failed("read", path))?;
            walk.file(Path::new(""), &stat, &file)?;
        }
        SFlag::S_IFDIR => {
            let flags = OFlag::O_DIRECTORY;
            let folder = open(AT_FDCWD, path, flags).map_err(failed("read", path))?;
            folders.push(walk.folder(PathBuf::new(), &stat, folder)?);
        }
        other => return Err(not_sendable(path, other)),
    }
    // Iterative: depth costs descriptors, not stack.
    while let Some(folder) = folders.last_mut() {
        match folder.names.next() {
            Some(name) => {
                let below = walk.entry(folder, &name)?;
                folders.extend(below);
            }
            None => drop(folders.pop()),
        }
    }
    Ok(())
}

struct Walk<'a> {
    port: &'a Port,
    top: &'a Path,
    /// The first sent name of each file with several names, by device and inode.
    links: RefCell<HashMap<(u64, u64), PathBuf>>,
}

/// A folder, and its names that are not sent yet.
struct Folder {
    fd: OwnedFd,
    /// Relative to the top.
    path: PathBuf,
    names: vec::IntoIter<OsString>,
}

impl Walk<'_> {
    /// Sends one entry of a folder; returns it if it is a folder itself.
    fn entry(&self, folder: &Folder, name: &OsStr) -> Result<Option<Folder>, Failure> {
        let relative = folder.path.join(name);
        let path = self.top.join(&relative);
        let stat = match fstatat(&folder.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // It was removed after the folder was listed.
            Err(Errno::ENOENT) => return Ok(None),
            other => other.map_err(failed("read", &path))?,
        };
        if let Some(first) = self.first_name(&relative, &stat) {
            let target = ByteBuf::from(first.into_os_string().into_vec());
            self.announce(&relative, &stat, EntryKind::HardLink { target })?;
            return Ok(None);
        }
        match kind(&stat) {
            SFlag::S_IFREG => match open(&folder.fd, name, OFlag::O_NOFOLLOW) {
                Err(Errno::ENOENT) => Ok(None),
                other => {
                    let file = other.map_err(failed("read", &path))?;
                    self.file(&relative, &stat, &file).map(|()| None)
                }
            },
            SFlag::S_IFDIR => {
                match open(&folder.fd, name, OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY) {
                    Err(Errno::ENOENT) => Ok(None),
                    other => {
                        let below = other.map_err(failed("read", &path))?;
                        self.folder(relative, &stat, below).map(Some)
                    }
                }
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(&folder.fd, name).map_err(failed("read", &path))?;
                let target = ByteBuf::from(target.into_vec());
                self.announce(&relative, &stat, EntryKind::Symlink { target })?;
                Ok(None)
            }
            other => {
                let special = match other {
                    SFlag::S_IFIFO => Special::Fifo,
                    SFlag::S_IFSOCK => Special::Socket,
                    _ => Special::Device,
                };
                self.announce(&relative, &stat, EntryKind::Special(special))?;
                Ok(None)
            }
        }
    }

    /// The name by which a file was already sent. Records `relative` for a file with several names.
    fn first_name(&self, relative: &Path, stat: &FileStat) -> Option<PathBuf> {
        if kind(stat) != SFlag::S_IFREG || stat.st_nlink < 2 {
            return None;
        }
        let mut links = self.links.borrow_mut();
        let first = links.get(&(stat.st_dev, stat.st_ino)).cloned();
        if first.is_none() {
            links.insert((stat.st_dev, stat.st_ino), relative.to_owned());
        }
        first
    }

    fn folder(&self, relative: PathBuf, stat: &FileStat, fd: OwnedFd) -> Result<Folder, Failure> {
        self.announce(&relative, stat, EntryKind::Directory)?;
        let names = names(&fd).map_err(failed("list", &self.top.join(&relative)))?;
        Ok(Folder { fd, path: relative, names: names.into_iter() })
    }

    fn file(&self, relative: &Path, stat: &FileStat, file: &OwnedFd) -> Result<(), Failure> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.announce(relative, stat, EntryKind::File { size })?;
        let path = self.top.join(relative);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if allocated < size && self.sparse(&path, file, size)? {
            return Ok(());
        }
        // One byte over the size: a small file ends with the second read. Files of the kernel have
        // size 0 and any content.
        let room = match usize::try_from(size) {
            Ok(size @ 1..CHUNK) => size + 1,
            _ => CHUNK,
        };
        self.bytes(&path, file, room, u64::MAX)
    }

    /// Sends a file's data and its holes. Returns false, with nothing sent, if the file system does
    /// not support SEEK_DATA, as some of the kernel's do not.
    fn sparse(&self, path: &Path, file: &OwnedFd, size: u64) -> Result<bool, Failure> {
        let seek = |at: u64, whence| {
            let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
            lseek64(file, at, whence).map(|found| u64::try_from(found).unwrap_or(0))
        };
        let mut at = 0;
        while at < size {
            let start = match seek(at, Whence::SeekData) {
                Ok(start) => start.min(size),
                // No data follows.
                Err(Errno::ENXIO) => size,
                Err(Errno::EINVAL) if at == 0 => return Ok(false),
                Err(errno) => return Err(failed("read", path)(errno)),
            };
            if start > at {
                self.port.send(Event::Entry(hole(start - at)))?;
            }
            at = start;
            if at < size {
                let end = seek(at, Whence::SeekHole).map_err(failed("read", path))?;
                seek(at, Whence::SeekSet).map_err(failed("read", path))?;
                self.bytes(path, file, CHUNK, end - at)?;
                at = end;
            }
        }
        Ok(true)
    }

    /// Sends at most `limit` bytes from the file's offset, in pieces of at most `room`.
    fn bytes(
        &self,
        path: &Path,
        file: &OwnedFd,
        room: usize,
        mut limit: u64,
    ) -> Result<(), Failure> {
        while limit > 0 {
            let room = usize::try_from(limit).map_or(room, |limit| limit.min(room));
            let mut bytes = self.port.buffers.take(room);
            match nix::unistd::read(file, &mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    bytes.truncate(count);
                    limit -= count as u64;
                    self.port.send(Event::Data(bytes))?;
                }
                Err(Errno::EINTR) => {}
                // A file of the kernel without data at the moment, such as its log.
                Err(Errno::EAGAIN) => self.port.wait_readable(file.as_fd())?,
                Err(errno) => return Err(failed("read", path)(errno)),
            }
        }
        Ok(())
    }

    fn announce(&self, path: &Path, stat: &FileStat, kind: EntryKind) -> Result<(), Failure> {
        self.port.send(Event::Entry(Entry {
            path: ByteBuf::from(path.as_os_str().as_bytes()),
            kind,
            mode: stat.st_mode & 0o7777,
            owner: Some(Owner { uid: stat.st_uid, gid: stat.st_gid }),
            modified: Some(stat.st_mtime),
        }))
    }
}

fn hole(length: u64) -> Entry {
    let kind = EntryKind::Hole { length };
    Entry { path: ByteBuf::new(), kind, mode: 0, owner: None, modified: None }
}

/// Opens a file of any type without blocking or acquiring a controlling terminal.
fn open(at: impl AsFd, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
    let always = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    openat(at, path.as_ref(), always | flags, Mode::empty())
}

fn names(folder: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut listing = Dir::openat(folder, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn not_sendable(path: &Path, kind: SFlag) -> Failure {
    let what = match kind {
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "no file, folder or link",
    };
    let message = format!("cannot read {}: it is {what}", path.display());
    refused(Errno::EINVAL, message)
}
