//! Where a hostile guest's tree comes down.
//!
//! INVARIANT: nothing outside of the destination is touched. The destination is an open folder and
//! a name in it, both ours. Everything below is reached by one name at a time, from an open folder,
//! never through a link; and what was there is replaced by a rename, never written through.
//! INVARIANT: a file has its name only once it is complete, and no unfinished file stays.
//!
//! Modes lose the bits that give power (setuid, setgid, sticky); owners are not taken over: all of
//! it belongs to whoever copies. A folder gets its mode and time when the walk leaves it.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use sandbox::{Entry, EntryKind};

use crate::error::{Error, Result, file};

/// Each open folder costs a descriptor.
const DEEPEST: usize = 256;
const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The mode of a folder that did not come itself.
const ORDINARY: Mode = Mode::from_bits_truncate(0o755);

/// A tree that comes down.
pub(crate) struct Landing {
    /// For error texts.
    shown: PathBuf,
    /// Where the top goes; none if that is the open folder itself.
    top: Option<(Rc<OwnedFd>, CString)>,
    /// The folders from the top to where the walk is. Empty before the top has come, and for a
    /// tree that is a single file.
    open: Vec<Folder>,
    file: Option<Partial>,
    begun: bool,
    count: u64,
    parents: Parents,
}

/// What becomes of a folder that something is in, and that has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parents {
    /// It is missed.
    Required,
    /// It is made: archives need not name it.
    Made,
}

struct Folder {
    /// Its name in the folder before it; empty for the top.
    name: CString,
    fd: Rc<OwnedFd>,
    /// What it gets when the walk leaves it; none if it is a folder of ours.
    finish: Option<(Mode, Option<i64>)>,
}

impl Landing {
    /// The top gets the name `name` in `folder`.
    pub(crate) fn in_folder(folder: File, name: PathBuf, shown: &Path) -> Result<Self> {
        let path = shown.join(&name);
        let name = CString::new(name.as_os_str().as_bytes())
            .map_err(|_| Error::Escape { path: name.clone() })?;
        let top = Some((Rc::new(folder.into()), name));
        Ok(Self { top, ..Self::empty(path) })
    }

    /// The top, a folder, is merged into `folder`.
    pub(crate) fn into(folder: File, shown: &Path) -> Self {
        let fd = Rc::new(folder.into());
        let open = vec![Folder { name: CString::default(), fd, finish: None }];
        Self { open, ..Self::empty(shown.to_owned()) }
    }

    /// What is in an archive is merged into `folder`: it names no top, and perhaps not all folders.
    #[cfg_attr(not(feature = "control"), allow(dead_code, reason = "only jobs leave archives"))]
    pub(crate) fn of_archive(folder: File, shown: &Path) -> Self {
        Self { begun: true, parents: Parents::Made, ..Self::into(folder, shown) }
    }

    fn empty(shown: PathBuf) -> Self {
        let (open, parents) = (Vec::new(), Parents::Required);
        Self { shown, top: None, open, file: None, begun: false, count: 0, parents }
    }

    /// The next file, folder or link.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.complete()?;
        let shown = self.shown.join(&entry.path);
        let top = entry.path.as_os_str().is_empty();
        if top == self.begun {
            return Err(Error::OutOfOrder { what: "a second top, or none" });
        }
        self.begun = true;
        let names = names(&entry.path)?;
        let (folder, name) = match names.split_last() {
            Some((name, above)) => (self.walk(above, &shown)?, name.clone()),
            None => match self.top.take() {
                Some((folder, name)) => (folder, name),
                None => return Ok(()),
            },
        };
        let mode = Mode::from_bits_truncate(entry.mode & 0o777);
        match &entry.kind {
            EntryKind::Directory => {
                let fd = make_folder(&folder, &name, &shown)?;
                let finish = Some((mode, entry.modified));
                let name = if top { CString::default() } else { name };
                self.open.push(Folder { name, fd: Rc::new(fd), finish });
                Ok(())
            }
            EntryKind::File { .. } => {
                let partial = self.partial_name();
                let goal = Goal { folder, name, shown };
                self.file = Some(Partial::create(goal, partial, mode, entry.modified)?);
                Ok(())
            }
            EntryKind::Symlink { target } => {
                let partial = self.partial_name();
                make_link(&Goal { folder, name, shown }, &partial, target, entry.modified)
            }
        }
    }

    /// More bytes of the file that came last.
    pub(crate) fn data(&mut self, data: &[u8]) -> Result<()> {
        let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "bytes" })?;
        partial.file.write_all(data).map_err(file("write", &partial.goal.shown))
    }

    /// All of it has come.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.complete()?;
        self.leave(0)
    }

    fn complete(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), Partial::publish)
    }

    /// Goes to the folder below the top that `names` lead to.
    fn walk(&mut self, names: &[CString], shown: &Path) -> Result<Rc<OwnedFd>> {
        if names.len() >= DEEPEST {
            return Err(Error::TooDeep { path: shown.to_owned() });
        }
        let inner = self.open.get(1..).unwrap_or_default();
        let common = inner.iter().zip(names).take_while(|(at, name)| at.name == **name).count();
        self.leave(common + 1)?;
        for name in &names[common..] {
            let above = self.here()?;
            let fd = match openat(&*above, name.as_c_str(), FOLDER, Mode::empty()) {
                Err(Errno::ENOENT) if self.parents == Parents::Made => {
                    let fd = make_folder(&above, name, shown)?;
                    fchmod(&fd, ORDINARY).map_err(file("set up the folder of", shown))?;
                    fd
                }
                opened => opened.map_err(file("open the folder of", shown))?,
            };
            self.open.push(Folder { name: name.clone(), fd: Rc::new(fd), finish: None });
        }
        self.here()
    }

    fn here(&self) -> Result<Rc<OwnedFd>> {
        let last = self.open.last().ok_or(Error::OutOfOrder { what: "something below a file" })?;
        Ok(Rc::clone(&last.fd))
    }

    /// Closes all folders but the first `kept`, innermost first.
    fn leave(&mut self, kept: usize) -> Result<()> {
        while self.open.len() > kept {
            let Some(folder) = self.open.pop() else { break };
            if let Some((mode, modified)) = folder.finish {
                furnish(&*folder.fd, mode, modified).map_err(file("set up", &self.shown))?;
            }
        }
        Ok(())
    }

    fn partial_name(&mut self) -> CString {
        self.count += 1;
        let name = format!(".runner-{}-{}.partial", std::process::id(), self.count);
        CString::new(name).unwrap_or_default()
    }
}

/// A path's components, if each of them is the name of something. None for the top.
fn names(path: &Path) -> Result<Vec<CString>> {
    let refused = || Error::Escape { path: path.to_owned() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let name = |name: &[u8]| match name {
        b"" | b"." | b".." => Err(refused()),
        name => CString::new(name).map_err(|_| refused()),
    };
    bytes.split(|byte| *byte == b'/').map(name).collect()
}

/// A folder that may be there already, but is no link.
fn make_folder(above: &OwnedFd, name: &CStr, shown: &Path) -> Result<OwnedFd> {
    match mkdirat(above, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(file("create folder", shown)(errno)),
    }
    openat(above, name, FOLDER, Mode::empty()).map_err(file("open folder", shown))
}

/// Where something goes.
struct Goal {
    folder: Rc<OwnedFd>,
    name: CString,
    shown: PathBuf,
}

impl Goal {
    /// Gives what is finished its name, in place of what has it.
    fn publish(&self, partial: &CStr) -> Result<()> {
        renameat(&*self.folder, partial, &*self.folder, self.name.as_c_str())
            .map_err(file("create", &self.shown))
    }

    fn discard(&self, partial: &CStr) {
        if let Err(errno) = unlinkat(&*self.folder, partial, UnlinkatFlags::NoRemoveDir) {
            let path = self.shown.with_file_name(OsStr::from_bytes(partial.to_bytes()));
            log::warn!("an unfinished file stays; path={} error={errno}", path.display());
        }
    }
}

fn make_link(goal: &Goal, partial: &CStr, target: &Path, modified: Option<i64>) -> Result<()> {
    symlinkat(target, &*goal.folder, partial).map_err(file("create link", &goal.shown))?;
    let set_time = |seconds| {
        let (no_access, time) = (TimeSpec::UTIME_OMIT, TimeSpec::new(seconds, 0));
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(&*goal.folder, partial, &no_access, &time, no_follow)
    };
    modified
        .map_or(Ok(()), set_time)
        .map_err(file("set up", &goal.shown))
        .and_then(|()| goal.publish(partial))
        .inspect_err(|_| goal.discard(partial))
}

/// A file that is not complete. Dropping it removes it.
struct Partial {
    goal: Goal,
    name: CString,
    file: File,
    mode: Mode,
    modified: Option<i64>,
    published: bool,
}

impl Partial {
    fn create(goal: Goal, name: CString, mode: Mode, modified: Option<i64>) -> Result<Self> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&*goal.folder, name.as_c_str(), flags, owner_only)
            .map_err(file("create", &goal.shown))?;
        Ok(Self { goal, name, file: fd.into(), mode, modified, published: false })
    }

    fn publish(mut self) -> Result<()> {
        furnish(&self.file, self.mode, self.modified).map_err(file("set up", &self.goal.shown))?;
        self.goal.publish(&self.name)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            self.goal.discard(&self.name);
        }
    }
}

fn furnish(fd: impl AsFd, mode: Mode, modified: Option<i64>) -> nix::Result<()> {
    fchmod(fd.as_fd(), mode)?;
    match modified {
        Some(seconds) => futimens(fd, &TimeSpec::UTIME_OMIT, &TimeSpec::new(seconds, 0)),
        None => Ok(()),
    }
}
