//! Resolves the destinations of a tree's entries.
//!
//! The tree's top may be reached through links, as the host names it. Below it no link is
//! followed, so that what is written stays in the tree whatever is in it already.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, futimens, mkdirat, stat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use vsock_proto::{Entry, Failure, Owner, Write};

use crate::failure::{failed, refused};
use crate::write::finish;

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The place of one entry.
pub(crate) struct Place {
    pub(crate) parent: Rc<OwnedFd>,
    pub(crate) name: OsString,
    /// The whole path, for messages.
    pub(crate) path: PathBuf,
}

pub(crate) struct Tree {
    path: PathBuf,
    make_parents: bool,
    owner: Option<Owner>,
    keeps_existing: bool,
    /// Whether the target was written as a folder, with a `/` at its end, and is none yet.
    is_named_folder: bool,
    top: Option<Rc<OwnedFd>>,
    /// The folder of the last entry: the next one's is often the same.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Folders that were made, and their times: those are set when nothing changes them any more.
    times: Vec<(Rc<Path>, i64)>,
}

impl Tree {
    pub(crate) fn new(request: Write) -> Result<Self, Failure> {
        let mut path = PathBuf::from(OsStr::from_bytes(&request.target));
        if !path.is_absolute() {
            return Err(failed("write to", &path)(Errno::EINVAL));
        }
        let is_dir = path.is_dir();
        if !request.name.is_empty() && is_dir {
            let name = relative(&request.name)?;
            path.push(name);
        } else if request.keeps_existing && path.is_file() {
            // The link stays, the file behind it is replaced.
            path = std::fs::canonicalize(&path)
                .map_err(|error| failed("read", &path)(crate::account::errno(&error)))?;
        }
        Ok(Self {
            path,
            make_parents: request.make_parents,
            owner: request.owner,
            keeps_existing: request.keeps_existing,
            is_named_folder: !is_dir && request.target.ends_with(b"/"),
            top: None,
            last: None,
            times: Vec::new(),
        })
    }

    /// Whether a file that is there keeps its owner and mode.
    pub(crate) fn keeps_existing(&self) -> bool {
        self.keeps_existing
    }

    /// The default owner of entries created in a folder.
    pub(crate) fn owner_in(
        &self,
        folder: impl AsFd,
        path: &Path,
    ) -> Result<Option<Owner>, Failure> {
        if self.owner.is_some() || !self.keeps_existing {
            return Ok(self.owner);
        }
        let stat = fstat(folder).map_err(failed("read the folder of", path))?;
        Ok(Some(Owner { uid: stat.st_uid, gid: stat.st_gid }))
    }

    /// The place of the entry with this path. As the top it is no folder.
    pub(crate) fn place(&mut self, path: &[u8]) -> Result<Place, Failure> {
        if path.is_empty() && self.is_named_folder {
            let errno = stat(&self.path).err().unwrap_or(Errno::ENOTDIR);
            return Err(failed("write to the folder", &self.path)(errno));
        }
        self.place_of(path)
    }

    fn place_of(&mut self, path: &[u8]) -> Result<Place, Failure> {
        if path.is_empty() {
            let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
                return Err(failed("replace", &self.path)(Errno::EISDIR));
            };
            return Ok(Place {
                parent: self.open_above(folder)?,
                name: name.to_owned(),
                path: self.path.clone(),
            });
        }
        let path = relative(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Place {
            parent: self.open_below(folder)?,
            name: path.file_name().unwrap_or_default().to_owned(),
            path: self.path.join(path),
        })
    }

    /// Creates a folder. An existing one stays unchanged, unless the entry has an owner.
    pub(crate) fn make_folder(&mut self, entry: &Entry) -> Result<(), Failure> {
        if entry.path.is_empty() && self.path.is_dir() {
            return Ok(());
        }
        let Place { parent, name, path } = self.place_of(&entry.path)?;
        match mkdirat(&parent, name.as_os_str(), Mode::S_IRWXU) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let folder =
                    openat(&parent, name.as_os_str(), FOLDER | OFlag::O_NOFOLLOW, Mode::empty())
                        .map_err(failed("make the folder", &path))?;
                return entry.owner.map_or(Ok(()), |owner| give(&folder, owner, &path));
            }
            Err(errno) => return Err(failed("make the folder", &path)(errno)),
        }
        let folder = openat(&parent, name.as_os_str(), FOLDER | OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(failed("open", &path))?;
        let owner = match entry.owner {
            None => self.owner_in(&parent, &path)?,
            owner => owner,
        };
        finish(&folder, entry.mode, owner, None, &path)?;
        if let Some(modified) = entry.modified {
            let relative = Path::new(OsStr::from_bytes(&entry.path));
            self.times.push((relative.into(), modified));
        }
        Ok(())
    }

    /// Sets the times of folders after all entries are written.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        for (relative, modified) in std::mem::take(&mut self.times) {
            let folder = self.open_below(&relative)?;
            let time = TimeSpec::new(modified, 0);
            futimens(&folder, &time, &time)
                .map_err(failed("set the time of", &self.path.join(relative)))?;
        }
        Ok(())
    }

    /// Opens a folder on the way to the tree; links are followed.
    fn open_above(&self, path: &Path) -> Result<Rc<OwnedFd>, Failure> {
        match openat(AT_FDCWD, path, FOLDER, Mode::empty()) {
            Err(Errno::ENOENT) if self.make_parents => {
                self.make_above(path)?;
                openat(AT_FDCWD, path, FOLDER, Mode::empty())
            }
            other => other,
        }
        .map(Rc::new)
        .map_err(failed("open", path))
    }

    fn make_above(&self, path: &Path) -> Result<(), Failure> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for folder in ancestors {
            if folder.is_dir() {
                continue;
            }
            let parent = folder.parent().unwrap_or(Path::new("/"));
            let parent =
                openat(AT_FDCWD, parent, FOLDER, Mode::empty()).map_err(failed("open", parent))?;
            self.make_parent(&parent, folder.file_name().unwrap_or_default(), folder)?;
        }
        Ok(())
    }

    /// Opens a folder of the tree; links are not followed.
    fn open_below(&mut self, relative: &Path) -> Result<Rc<OwnedFd>, Failure> {
        if let Some((path, folder)) = &self.last
            && path == relative
        {
            return Ok(Rc::clone(folder));
        }
        let top = match &self.top {
            Some(top) => Rc::clone(top),
            None => Rc::clone(self.top.insert(self.open_above(&self.path)?)),
        };
        if relative.as_os_str().is_empty() {
            return Ok(top);
        }
        let path = self.path.join(relative);
        let folder = match open_beneath(&top, relative) {
            Err(Errno::ENOENT) if self.make_parents => {
                self.make_below(&top, relative)?;
                open_beneath(&top, relative)
            }
            other => other,
        };
        let folder = Rc::new(folder.map_err(failed("open", &path))?);
        self.last = Some((relative.to_owned(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn make_below(&self, top: &Rc<OwnedFd>, relative: &Path) -> Result<(), Failure> {
        let mut parent = Rc::clone(top);
        let mut path = self.path.clone();
        for name in relative {
            path.push(name);
            parent = Rc::new(
                match open_beneath(&parent, Path::new(name)) {
                    Err(Errno::ENOENT) => {
                        self.make_parent(&parent, name, &path)?;
                        open_beneath(&parent, Path::new(name))
                    }
                    other => other,
                }
                .map_err(failed("open", &path))?,
            );
        }
        Ok(())
    }

    /// Creates one missing folder; another process may create it at the same time.
    fn make_parent(&self, parent: impl AsFd, name: &OsStr, path: &Path) -> Result<(), Failure> {
        match mkdirat(&parent, name, Mode::from_bits_retain(0o755)) {
            Err(Errno::EEXIST) => return Ok(()),
            made => made.map_err(failed("make the folder", path))?,
        }
        let flags = FOLDER | OFlag::O_NOFOLLOW;
        let folder = openat(&parent, name, flags, Mode::empty()).map_err(failed("open", path))?;
        self.owner_in(&parent, path)?.map_or(Ok(()), |owner| give(&folder, owner, path))
    }
}

fn give(folder: &OwnedFd, Owner { uid, gid }: Owner, path: &Path) -> Result<(), Failure> {
    fchown(folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(failed("change the owner of", path))
}

fn open_beneath(top: impl AsFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(FOLDER)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(top, path, how)
}

/// Validates an entry's path: it must not lead out of the tree.
fn relative(bytes: &[u8]) -> Result<&Path, Failure> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let is_plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if bytes.is_empty() || bytes.contains(&0) || !is_plain {
        let message = format!("the path `{}` leads out of its tree", path.display());
        return Err(refused(Errno::EINVAL, message));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_of_the_tree_are_refused() {
        assert!(relative(b"a/b.c").is_ok());
        assert!(relative(b"/etc/passwd").is_err());
        assert!(relative(b"../x").is_err());
        assert!(relative(b"a/../../x").is_err());
        assert!(relative(b"./a").is_err());
        assert!(relative(b"a\0b").is_err());
        assert!(relative(b"").is_err());
    }
}
