//! Where a hostile guest's tree comes down.
//!
//! INVARIANT: nothing outside of the destination is touched. The destination is an open folder and
//! a name in it, both ours. Everything below is reached by one name at a time, from an open folder,
//! never through a link; and what was there is replaced by a rename, never written through.
//! INVARIANT: a file has its name only once it is complete, and no unfinished file stays.
//!
//! INVARIANT: a device, FIFO or socket is never replaced.
//!
//! Modes lose the bits that give power (setuid, setgid, sticky). [`Rules`] decide on owners. A folder
//! gets its mode and time when the walk leaves it.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use sandbox::{Entry, EntryKind, Owner};

use super::rules::Rules;
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
    rules: Rules,
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
    finish: Option<Finish>,
}

/// What a file or folder gets once it is complete.
#[derive(Debug, Clone, Copy)]
struct Finish {
    owner: Option<Owner>,
    mode: Mode,
    modified: Option<i64>,
}

impl Landing {
    /// The top gets the name `name` in `folder`.
    pub(crate) fn in_folder(
        folder: File,
        name: PathBuf,
        shown: &Path,
        rules: Rules,
    ) -> Result<Self> {
        let path = shown.join(&name);
        let name = CString::new(name.as_os_str().as_bytes())
            .map_err(|_| Error::Escape { path: name.clone() })?;
        let top = Some((Rc::new(folder.into()), name));
        Ok(Self { top, ..Self::empty(path, rules) })
    }

    /// The top, a folder, is merged into `folder`.
    pub(crate) fn into(folder: File, shown: &Path, rules: Rules) -> Self {
        let fd = Rc::new(folder.into());
        let open = vec![Folder { name: CString::default(), fd, finish: None }];
        Self { open, ..Self::empty(shown.to_owned(), rules) }
    }

    /// What is in an archive is merged into `folder`: it names no top, and perhaps not all folders.
    #[cfg_attr(not(feature = "platform"), allow(dead_code, reason = "only jobs leave archives"))]
    pub(crate) fn of_archive(folder: File, shown: &Path) -> Self {
        let landing = Self::into(folder, shown, Rules::of_archive());
        Self { begun: true, parents: Parents::Made, ..landing }
    }

    fn empty(shown: PathBuf, rules: Rules) -> Self {
        let (open, parents) = (Vec::new(), Parents::Required);
        Self { shown, top: None, open, file: None, begun: false, count: 0, parents, rules }
    }

    /// The next file, folder or link.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        if let EntryKind::Hole { length } = entry.kind {
            let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "a hole" })?;
            return partial.skip(length).map_err(file("write", &partial.goal.shown));
        }
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
        self.make(Goal { folder, name, shown }, entry)
    }

    fn make(&mut self, goal: Goal, entry: &Entry) -> Result<()> {
        if entry.kind == EntryKind::Directory {
            return self.folder(goal, entry);
        }
        let existing = goal.existing()?;
        let partial = self.partial_name();
        match &entry.kind {
            EntryKind::HardLink { target } => {
                let (folder, name) = self.first(target)?;
                make_hard_link(&folder, &name, &goal, &partial)
            }
            EntryKind::Symlink { target } => {
                let owner = self.rules.owner(entry.owner, &goal.folder, None);
                let owner = owner.map_err(file("set up", &goal.shown))?;
                make_link(&goal, &partial, target, entry.modified, owner)
            }
            EntryKind::File { .. } => {
                let owner = self.rules.owner(entry.owner, &goal.folder, existing.as_ref());
                let owner = owner.map_err(file("set up", &goal.shown))?;
                let mode = self.rules.mode(entry.mode, existing.as_ref());
                let finish = Finish { owner, mode, modified: entry.modified };
                self.file = Some(Partial::create(goal, partial, finish)?);
                Ok(())
            }
            EntryKind::Directory | EntryKind::Hole { .. } | EntryKind::Special(_) => {
                Err(Error::OutOfOrder { what: "something without content" })
            }
        }
    }

    /// A folder; whose it is and stays if it is there, only `Given` and `Source` decide.
    fn folder(&mut self, goal: Goal, entry: &Entry) -> Result<()> {
        let Goal { folder, name, shown } = goal;
        let (fd, is_new) = make_folder(&folder, &name, &shown)?;
        let owner = if is_new {
            self.rules.owner(entry.owner, &folder, None).map_err(file("set up", &shown))?
        } else {
            self.rules.given(entry.owner)
        };
        // At once: what is created inside inherits it.
        if let Some(Owner { uid, gid }) = owner {
            fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(file("set up", &shown))?;
        }
        let mode = Mode::from_bits_truncate(entry.mode & 0o777);
        let finish = Some(Finish { owner, mode, modified: entry.modified });
        let is_top = entry.path.as_os_str().is_empty();
        let name = if is_top { CString::default() } else { name };
        self.open.push(Folder { name, fd: Rc::new(fd), finish });
        Ok(())
    }

    /// The folder and the name of a file of this tree that came before.
    fn first(&self, path: &Path) -> Result<(Rc<OwnedFd>, CString)> {
        let shown = self.shown.join(path);
        let names = names(path)?;
        let top = self.open.first().ok_or(Error::OutOfOrder { what: "a second name" })?;
        let mut folder = Rc::clone(&top.fd);
        let Some((name, above)) = names.split_last() else {
            return Err(Error::Escape { path: path.to_owned() });
        };
        for name in above {
            let opened = openat(&*folder, name.as_c_str(), FOLDER, Mode::empty());
            folder = Rc::new(opened.map_err(file("open the folder of", &shown))?);
        }
        let stat = fstatat(&*folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let stat = stat.map_err(file("read", &shown))?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(Error::Special { path: shown });
        }
        Ok((folder, name.clone()))
    }

    /// More bytes of the file that came last.
    pub(crate) fn data(&mut self, data: &[u8]) -> Result<()> {
        let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "bytes" })?;
        partial.append(data).map_err(file("write", &partial.goal.shown))
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
                    let (fd, _) = make_folder(&above, name, shown)?;
                    let failed = file("set up the folder of", shown);
                    let owner = self.rules.owner(None, &above, None);
                    let finished = owner.and_then(|owner| {
                        furnish(&fd, Finish { owner, mode: ORDINARY, modified: None })
                    });
                    finished.map_err(failed)?;
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
            if let Some(finish) = folder.finish {
                furnish(&*folder.fd, finish).map_err(file("set up", &self.shown))?;
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

/// A folder that may be there already, but is no link; and whether it was made.
fn make_folder(above: &OwnedFd, name: &CStr, shown: &Path) -> Result<(OwnedFd, bool)> {
    let is_new = match mkdirat(above, name, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(file("create folder", shown)(errno)),
    };
    let opened = openat(above, name, FOLDER, Mode::empty());
    opened.map(|fd| (fd, is_new)).map_err(file("open folder", shown))
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Where something goes.
struct Goal {
    folder: Rc<OwnedFd>,
    name: CString,
    shown: PathBuf,
}

impl Goal {
    /// The regular file that has the name; an error if it is something that is not replaced.
    fn existing(&self) -> Result<Option<FileStat>> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let stat = match fstatat(&*self.folder, self.name.as_c_str(), flags) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => stat.map_err(file("read", &self.shown))?,
        };
        match kind(&stat) {
            SFlag::S_IFREG => Ok(Some(stat)),
            SFlag::S_IFLNK | SFlag::S_IFDIR => Ok(None),
            _ => Err(Error::Special { path: self.shown.clone() }),
        }
    }

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

/// Gives a file another name, in place of what has it.
fn make_hard_link(folder: &OwnedFd, name: &CStr, goal: &Goal, partial: &CStr) -> Result<()> {
    linkat(folder, name, &*goal.folder, partial, AtFlags::empty())
        .map_err(file("create link", &goal.shown))?;
    goal.publish(partial).inspect_err(|_| goal.discard(partial))?;
    // Where both names are the same file's already, a rename does nothing.
    match unlinkat(&*goal.folder, partial, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(file("create link", &goal.shown)(errno)),
    }
}

fn make_link(
    goal: &Goal,
    partial: &CStr,
    target: &Path,
    modified: Option<i64>,
    owner: Option<Owner>,
) -> Result<()> {
    symlinkat(target, &*goal.folder, partial).map_err(file("create link", &goal.shown))?;
    let set_time = |seconds| {
        let (no_access, time) = (TimeSpec::UTIME_OMIT, TimeSpec::new(seconds, 0));
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(&*goal.folder, partial, &no_access, &time, no_follow)
    };
    let set_owner = |Owner { uid, gid }| {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&*goal.folder, partial, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
    };
    owner
        .map_or(Ok(()), set_owner)
        .and_then(|()| modified.map_or(Ok(()), set_time))
        .map_err(file("set up", &goal.shown))
        .and_then(|()| goal.publish(partial))
        .inspect_err(|_| goal.discard(partial))
}

/// A file that is not complete. Dropping it removes it.
struct Partial {
    goal: Goal,
    name: CString,
    file: File,
    finish: Finish,
    ends_in_hole: bool,
    published: bool,
}

impl Partial {
    fn create(goal: Goal, name: CString, finish: Finish) -> Result<Self> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&*goal.folder, name.as_c_str(), flags, owner_only)
            .map_err(file("create", &goal.shown))?;
        Ok(Self { goal, name, file: fd.into(), finish, ends_in_hole: false, published: false })
    }

    /// Leaves a hole.
    fn skip(&mut self, length: u64) -> io::Result<()> {
        let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
        self.ends_in_hole = true;
        self.file.seek(SeekFrom::Current(length)).map(drop)
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.ends_in_hole &= data.is_empty();
        self.file.write_all(data)
    }

    fn publish(mut self) -> Result<()> {
        if self.ends_in_hole {
            let length = self.file.stream_position();
            let set = length.and_then(|length| self.file.set_len(length));
            set.map_err(file("write", &self.goal.shown))?;
        }
        furnish(&self.file, self.finish).map_err(file("set up", &self.goal.shown))?;
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

fn furnish(fd: impl AsFd, finish: Finish) -> nix::Result<()> {
    let Finish { owner, mode, modified } = finish;
    // First, since it takes bits from the mode.
    if let Some(Owner { uid, gid }) = owner {
        fchown(fd.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fchmod(fd.as_fd(), mode)?;
    match modified {
        Some(seconds) => futimens(fd, &TimeSpec::UTIME_OMIT, &TimeSpec::new(seconds, 0)),
        None => Ok(()),
    }
}
