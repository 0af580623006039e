//! Writing a tree of files that the host sends.
//!
//! 1. Each file is written to `.NAME.RANDOM.partial` beside its target, readable by nobody else.
//! 2. Once its bytes are complete it gets its owner, mode and time, and its name.
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
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};
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
            Part::Entry(entry) => {
                open.take().map_or(Ok(()), Partial::publish)?;
                port.consumed(entry.cost())?;
                open = make(&mut tree, &entry)?;
            }
            Part::Data(bytes) => {
                let partial = open
                    .as_mut()
                    .ok_or_else(|| refused(Errno::EPROTO, "bytes came that belong to no file"))?;
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

/// Makes what `entry` says; a file is left open for its bytes.
fn make(tree: &mut Tree, entry: &Entry) -> Result<Option<Partial>, Failure> {
    let owner = entry.owner.or(tree.owner());
    match &entry.kind {
        EntryKind::Directory => {
            tree.make_folder(entry, owner)?;
            Ok(None)
        }
        EntryKind::File { .. } => {
            let place = tree.place(&entry.path)?;
            Partial::create(place, entry, owner).map(Some)
        }
        EntryKind::Symlink { target } => {
            let place = tree.place(&entry.path)?;
            make_link(&place, OsStr::from_bytes(target), entry, owner)?;
            Ok(None)
        }
    }
}

/// A file that is being written.
struct Partial {
    place: Place,
    name: OsString,
    file: OwnedFd,
    is_published: bool,
    mode: u32,
    owner: Option<Owner>,
    modified: Option<i64>,
}

impl Partial {
    fn create(place: Place, entry: &Entry, owner: Option<Owner>) -> Result<Self, Failure> {
        let name = partial_name(&place.name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&place.parent, name.as_os_str(), flags, Mode::from_bits_retain(0o600))
            .map_err(failed("create", &place.path))?;
        Ok(Self {
            place,
            name,
            file,
            is_published: false,
            mode: entry.mode,
            owner,
            modified: entry.modified,
        })
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match nix::unistd::write(&self.file, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed("write", &self.place.path)(errno)),
            }
        }
        Ok(())
    }

    /// Makes it the file that it was to be. If that fails it goes like one that is not complete.
    fn publish(mut self) -> Result<(), Failure> {
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

/// Sets owner, mode and time of what was made, in the order in which they do not undo each other.
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

/// Makes a symbolic link, or replaces what is there by it.
fn make_link(
    place: &Place,
    target: &OsStr,
    entry: &Entry,
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
        if let Some(modified) = entry.modified {
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

/// Replaces the file at `path` by one with this content, readable by all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut partial = Partial::create(place_of(path)?, &entry(0o644), None)?;
    partial.append(content)?;
    partial.publish()
}

/// Replaces what is at `path` by a symbolic link.
pub(crate) fn replace_by_link(path: &Path, target: &OsStr) -> Result<(), Failure> {
    make_link(&place_of(path)?, target, &entry(0o777), None)
}

fn entry(mode: u32) -> Entry {
    Entry {
        path: serde_bytes::ByteBuf::new(),
        kind: EntryKind::File { size: 0 },
        mode,
        owner: None,
        modified: None,
    }
}

fn place_of(path: &Path) -> Result<Place, Failure> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("replace", path)(Errno::EISDIR));
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = openat(AT_FDCWD, folder, flags, Mode::empty()).map_err(failed("open", folder))?;
    Ok(Place { parent: Rc::new(parent), name: name.to_owned(), path: path.to_owned() })
}

/// A name that nobody else uses. Random, since a crash may have left others.
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
