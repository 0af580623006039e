//! Writing a tree of files that the host sends.
//!
//! 1. Each file is written to `.NAME.RANDOM.partial` beside its target, private to the service.
//! 2. Once its bytes are complete it gets its owner, mode and time, and its name.
//!
//! A device, FIFO or socket is never replaced.
//!
//! INVARIANT: a file that is not complete never has its name; its partial file is removed with
//! its [`Partial`], whatever ends that.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, Uid, UnlinkatFlags, Whence, fchown, fchownat, ftruncate, linkat, lseek64, symlinkat,
    unlinkat,
};
use serde_bytes::ByteBuf;
use vsock_proto::{Entry, EntryKind, Failure, Owner, Write};

use crate::failure::{failed, refused};
use crate::transfer::{Part, Port};
use crate::tree::{Place, Tree};

/// How much of a name its partial file's name repeats: a name has at most 255 bytes.
const NAME: usize = 200;

/// Writes the tree that comes through `port`.
pub(crate) fn write(port: &Port, request: Write) -> Result<(), Failure> {
    let mut tree = Tree::new(request)?;
    let mut open: Option<Partial> = None;
    loop {
        match port.next()? {
            Part::Entry(Entry { kind: EntryKind::Hole { length }, path, .. }) => {
                let partial = open.as_mut().ok_or_else(|| stray("a hole"))?;
                partial.skip(length)?;
                port.consumed(hole_cost(path, length))?;
            }
            Part::Entry(entry) => {
                open.take().map_or(Ok(()), Partial::publish)?;
                port.consumed(entry.cost())?;
                open = make(&mut tree, &entry)?;
            }
            Part::Data(bytes) => {
                let partial = open.as_mut().ok_or_else(|| stray("bytes"))?;
                partial.append(&bytes)?;
                port.consumed(bytes.len() as u64)?;
                port.buffers.give(bytes);
            }
            Part::End => {
                open.take().map_or(Ok(()), Partial::publish)?;
                return tree.finish();
            }
        }
    }
}

/// Creates the entry; a file stays open for its bytes.
fn make(tree: &mut Tree, entry: &Entry) -> Result<Option<Partial>, Failure> {
    match &entry.kind {
        EntryKind::Directory => {
            tree.make_folder(entry)?;
            Ok(None)
        }
        EntryKind::File { .. } => {
            let place = tree.place(&entry.path)?;
            let existing = existing(&place)?.filter(|_| tree.keeps_existing());
            let mode = existing.map_or(entry.mode, |stat| stat.st_mode);
            let kept = existing.map(|stat| Owner { uid: stat.st_uid, gid: stat.st_gid });
            let owner = match entry.owner.or(kept) {
                None => tree.owner_in(&place.parent, &place.path)?,
                owner => owner,
            };
            Partial::create(place, mode, owner, entry.modified).map(Some)
        }
        EntryKind::Symlink { target } => {
            let place = tree.place(&entry.path)?;
            existing(&place)?;
            let owner = match entry.owner {
                None => tree.owner_in(&place.parent, &place.path)?,
                owner => owner,
            };
            make_link(&place, OsStr::from_bytes(target), entry.modified, owner)?;
            Ok(None)
        }
        EntryKind::HardLink { target } => {
            let first = tree.place(target)?;
            let place = tree.place(&entry.path)?;
            existing(&place)?;
            make_hard_link(&first, &place)?;
            Ok(None)
        }
        EntryKind::Hole { .. } | EntryKind::Special(_) => Err(stray("an entry")),
    }
}

/// The regular file at a place; an error for a type that is never replaced.
fn existing(place: &Place) -> Result<Option<FileStat>, Failure> {
    let Place { parent, name, path } = place;
    let stat = match fstatat(parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        stat => stat.map_err(failed("replace", path))?,
    };
    let what = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => return Ok(Some(stat)),
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => return Ok(None),
    };
    let message = format!("cannot replace {}: it is {what}", path.display());
    Err(refused(Errno::EEXIST, message))
}

fn stray(what: &str) -> Failure {
    refused(Errno::EPROTO, format!("{what} came that belongs to no file"))
}

/// The cost of a hole's entry in its stream's credit.
fn hole_cost(path: ByteBuf, length: u64) -> u64 {
    let kind = EntryKind::Hole { length };
    Entry { path, kind, mode: 0, owner: None, modified: None }.cost()
}

/// A file that is being written.
struct Partial {
    place: Place,
    name: OsString,
    file: OwnedFd,
    is_published: bool,
    ends_in_hole: bool,
    mode: u32,
    owner: Option<Owner>,
    modified: Option<i64>,
}

impl Partial {
    fn create(
        place: Place,
        mode: u32,
        owner: Option<Owner>,
        modified: Option<i64>,
    ) -> Result<Self, Failure> {
        let name = partial_name(&place.name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&place.parent, name.as_os_str(), flags, Mode::from_bits_retain(0o600))
            .map_err(failed("create", &place.path))?;
        Ok(Self {
            place,
            name,
            file,
            is_published: false,
            ends_in_hole: false,
            mode,
            owner,
            modified,
        })
    }

    /// Writes a hole.
    fn skip(&mut self, length: u64) -> Result<(), Failure> {
        let length = i64::try_from(length).map_err(|_| Errno::EFBIG);
        length
            .and_then(|length| lseek64(&self.file, length, Whence::SeekCur))
            .map_err(failed("write", &self.place.path))?;
        self.ends_in_hole = true;
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        self.ends_in_hole &= bytes.is_empty();
        while !bytes.is_empty() {
            match nix::unistd::write(&self.file, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed("write", &self.place.path)(errno)),
            }
        }
        Ok(())
    }

    /// Renames it to its target. On failure it is removed like an incomplete file.
    fn publish(mut self) -> Result<(), Failure> {
        if self.ends_in_hole {
            lseek64(&self.file, 0, Whence::SeekCur)
                .and_then(|length| ftruncate(&self.file, length))
                .map_err(failed("write", &self.place.path))?;
        }
        finish(&self.file, self.mode, self.owner, self.modified, &self.place.path)?;
        let Place { parent, name, path } = &self.place;
        renameat(parent, self.name.as_os_str(), parent, name.as_os_str())
            .map_err(failed("replace", path))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_published {
            remove(&self.place, &self.name);
        }
    }
}

fn remove(place: &Place, name: &OsStr) {
    match unlinkat(&place.parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => log::warn!("a partial file stays; path={:?} error={errno}", place.path),
    }
}

/// Sets owner, mode and time, in an order in which none resets another.
pub(crate) fn finish(
    fd: &impl AsFd,
    mode: u32,
    owner: Option<Owner>,
    modified: Option<i64>,
    path: &Path,
) -> Result<(), Failure> {
    if let Some(Owner { uid, gid }) = owner {
        fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(failed("change the owner of", path))?;
    }
    fchmod(fd, Mode::from_bits_retain(mode & 0o7777))
        .map_err(failed("change the mode of", path))?;
    if let Some(modified) = modified {
        let time = TimeSpec::new(modified, 0);
        futimens(fd, &time, &time).map_err(failed("set the time of", path))?;
    }
    Ok(())
}

/// Creates a symbolic link, in place of an existing entry.
fn make_link(
    place: &Place,
    target: &OsStr,
    modified: Option<i64>,
    owner: Option<Owner>,
) -> Result<(), Failure> {
    let temporary = partial_name(&place.name);
    let Place { parent, name, path } = place;
    let make = || {
        symlinkat(target, parent, temporary.as_os_str())?;
        if let Some(Owner { uid, gid }) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(parent, temporary.as_os_str(), Some(uid), Some(gid), flags)?;
        }
        if let Some(modified) = modified {
            let time = TimeSpec::new(modified, 0);
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(parent, temporary.as_os_str(), &time, &time, flags)?;
        }
        renameat(parent, temporary.as_os_str(), parent, name.as_os_str())
    };
    let made = make().map_err(failed("make the link", path));
    if made.is_err() {
        remove(place, &temporary);
    }
    made
}

/// Creates a hard link to a file of the tree, in place of an existing entry.
fn make_hard_link(first: &Place, place: &Place) -> Result<(), Failure> {
    let temporary = partial_name(&place.name);
    let Place { parent, name, path } = place;
    linkat(&first.parent, first.name.as_os_str(), parent, temporary.as_os_str(), AtFlags::empty())
        .map_err(failed("make the link", path))?;
    let renamed = renameat(parent, temporary.as_os_str(), parent, name.as_os_str());
    // Where both names are the same file's already, the temporary one stays.
    remove(place, &temporary);
    renamed.map_err(failed("make the link", path))
}

/// Replaces the file at `path` by one with this content, readable by all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut partial = Partial::create(place_of(path)?, 0o644, None, None)?;
    partial.append(content)?;
    partial.publish()
}

/// Replaces the entry at `path` by a symbolic link.
pub(crate) fn replace_by_link(path: &Path, target: &OsStr) -> Result<(), Failure> {
    make_link(&place_of(path)?, target, None, None)
}

fn place_of(path: &Path) -> Result<Place, Failure> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("replace", path)(Errno::EISDIR));
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = openat(AT_FDCWD, folder, flags, Mode::empty()).map_err(failed("open", folder))?;
    Ok(Place { parent: Rc::new(parent), name: name.to_owned(), path: path.to_owned() })
}

/// A unique name. It is random, since a crash may have left others.
fn partial_name(name: &OsStr) -> OsString {
    let random = RandomState::new().build_hasher().finish();
    let name = name.as_bytes();
    let mut partial = b".".to_vec();
    partial.extend_from_slice(&name[..name.len().min(NAME)]);
    partial.extend_from_slice(format!(".{random:016x}.partial").as_bytes());
    OsStr::from_bytes(&partial).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_name_fits_whatever_the_name_is() {
        let name = "n".repeat(255);
        assert!(partial_name(OsStr::new(&name)).len() <= 255);
        assert_ne!(partial_name(OsStr::new("a")), partial_name(OsStr::new("a")));
    }
}
