//! Watches a folder with inotify.
//!
//! ```text
//!   watch the folder, and with `recursive` each folder in it ─▶ `watching`
//!   wait for events ─▶ `event` for each; a new folder is watched, and what is in it already is reported
//!   the folder is gone, or events were lost ─▶ error
//! ```
//!
//! A file that the host writes is reported when it gets its name, as if it had been written there: created,
//! its owner set, written.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use files_proto::{Code, Event, EventKind, MAX_ENTRIES, Reply, Summary, WatchScope};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};

use crate::entry::{Follow, describe};
use crate::error::{fail, failed, invalid};
use crate::output::shown_path;
use crate::question::Questions;
use crate::{Context, Error, Result};

/// How many names of found files are remembered while there is nothing to report.
const SCANNED: usize = 1024;

/// How many moves may have a half that is not reported yet.
const ARRIVING: usize = 64;

const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Reports changes until it fails.
pub(crate) fn watch<W: Write>(
    context: &mut Context<'_, W>,
    path: &str,
    scope: WatchScope,
    mut questions: Questions<impl Read + AsFd>,
) -> Result<Summary> {
    let top = context.absolute(path)?;
    if !scope.allow_network {
        refuse_network(&top)?;
    }
    let mut watcher = Watcher::new(top, scope)?;
    watcher.start()?;
    context.output.reply(&Reply::Watching {})?;
    loop {
        while let Some(events) = watcher.read()? {
            for event in events {
                watcher.handle(context, event)?;
            }
        }
        if watcher.scanned.len() > SCANNED {
            watcher.scanned.clear();
        }
        for _ in 0..questions.take() {
            context.output.reply(&Reply::Synced {})?;
        }
        context.output.flush()?;
        watcher.wait(&mut questions)?;
    }
}

/// An error if the kernel does not report all changes in the folder.
fn refuse_network(top: &Path) -> Result<()> {
    const CIFS: FsType = FsType(0xff53_4d42);
    const SMB2: FsType = FsType(0xfe53_4d42);
    let networks = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, FUSE_SUPER_MAGIC, CIFS, SMB2];
    let found = statfs(top).map_err(|errno| failed("watch", top)(errno.into()))?;
    if !networks.contains(&found.filesystem_type()) {
        return Ok(());
    }
    let message = format!("cannot watch {}: it is on a network file system", top.display());
    Err(invalid(message))
}

struct Watcher {
    inotify: Inotify,
    top: PathBuf,
    scope: WatchScope,
    root: Option<WatchDescriptor>,
    /// The watched folders, relative to the top.
    folders: HashMap<WatchDescriptor, PathBuf>,
    /// What was found in new folders, until it is removed: the kernel may report its creation once more.
    scanned: HashSet<PathBuf>,
    /// The last moves from partial names, by the kernel's numbers.
    arriving: VecDeque<u32>,
}

impl Watcher {
    fn new(top: PathBuf, scope: WatchScope) -> Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).map_err(|errno| failed("watch", &top)(errno.into()))?;
        let (folders, scanned, arriving) = Default::default();
        Ok(Self { inotify, top, scope, root: None, folders, scanned, arriving })
    }

    /// Watches the folder and those that are in it.
    fn start(&mut self) -> Result<()> {
        let root = self.inotify.add_watch(&self.top, CHANGES);
        let root = root.map_err(|errno| self.watch_error(&self.top, errno))?;
        self.root = Some(root);
        self.folders.insert(root, PathBuf::new());
        if self.scope.recursive {
            self.add_below(Path::new(""), |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// Watches each folder below one; `found` gets whatever is there.
    fn add_below(
        &mut self,
        folder: &Path,
        mut found: impl FnMut(&mut Self, &Path) -> Result<()>,
    ) -> Result<()> {
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let Ok(entries) = fs::read_dir(self.top.join(&folder)) else {
                // Removed meanwhile, or the user may not read it.
                continue;
            };
            for entry in entries.map_while(io::Result::ok) {
                let path = folder.join(entry.file_name());
                if !is_partial(&entry.file_name()) {
                    found(self, &path)?;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && self.add(&path)? {
                    open.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches a folder below the top. Returns whether it is there and the user may read it.
    fn add(&mut self, folder: &Path) -> Result<bool> {
        let path = self.top.join(folder);
        match self.inotify.add_watch(&path, CHANGES | AddWatchFlags::IN_DONT_FOLLOW) {
            Ok(descriptor) => {
                self.folders.insert(descriptor, folder.to_owned());
                if self.folders.len() > MAX_ENTRIES {
                    return Err(self.watch_error(&path, Errno::ENOSPC));
                }
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ENAMETOOLONG) => Ok(false),
            Err(errno) => Err(self.watch_error(&path, errno)),
        }
    }

    fn watch_error(&self, path: &Path, errno: Errno) -> Error {
        // To inotify it means a limit, not a full disk.
        if errno != Errno::ENOSPC {
            return failed("watch", path)(errno.into());
        }
        let message = format!(
            "cannot watch {}: {} folders are watched, and more are not allowed",
            path.display(),
            self.folders.len()
        );
        fail(Code::TooMany, message)
    }

    /// Waits for events or questions.
    fn wait(&self, questions: &mut Questions<impl Read + AsFd>) -> Result<()> {
        let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(questions.source().map(|source| PollFd::new(source, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed("watch", &self.top)(errno.into())),
        }
        if fds.get(1).is_some_and(|fd| fd.any() == Some(true)) {
            questions.read();
        }
        Ok(())
    }

    /// The events that have come; `None` if there are none.
    fn read(&self) -> Result<Option<Vec<InotifyEvent>>> {
        match self.inotify.read_events() {
            Ok(events) => Ok(Some(events)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => Ok(Some(Vec::new())),
            Err(errno) => Err(failed("watch", &self.top)(errno.into())),
        }
    }

    fn handle<W: Write>(
        &mut self,
        context: &mut Context<'_, W>,
        event: InotifyEvent,
    ) -> Result<()> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            let message = format!(
                "changes in {} came faster than they could be reported: some are lost",
                self.top.display()
            );
            return Err(fail(Code::Overflow, message));
        }
        let Some(folder) = self.folders.get(&event.wd).cloned() else {
            return Ok(());
        };
        self.check_root(&event)?;
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.folders.remove(&event.wd);
            return Ok(());
        }
        self.report(context, &event, &folder)
    }

    /// An error if the watched folder is gone.
    fn check_root(&self, event: &InotifyEvent) -> Result<()> {
        let ends = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        if Some(event.wd) != self.root || !event.mask.intersects(ends) {
            return Ok(());
        }
        let what = if event.mask.contains(AddWatchFlags::IN_MOVE_SELF) {
            "moved"
        } else if event.mask.contains(AddWatchFlags::IN_UNMOUNT) {
            "unmounted"
        } else {
            "removed"
        };
        let message = format!("the watched folder {} was {what}", self.top.display());
        Err(fail(Code::Gone, message))
    }

    fn report<W: Write>(
        &mut self,
        context: &mut Context<'_, W>,
        event: &InotifyEvent,
        folder: &Path,
    ) -> Result<()> {
        let Some(kind) = kind_of(event.mask) else {
            return Ok(());
        };
        let path = match &event.name {
            Some(name) => folder.join(name),
            // A folder below the top is reported by the one that it is in.
            None if folder.as_os_str().is_empty() => PathBuf::new(),
            None => return Ok(()),
        };
        if event.name.as_deref().is_some_and(is_partial) {
            if kind == EventKind::Rename {
                self.arriving.truncate(ARRIVING);
                self.arriving.push_front(event.cookie);
            }
            return Ok(());
        }
        if event.mask.contains(AddWatchFlags::IN_MOVED_TO) && self.arriving.contains(&event.cookie)
        {
            let kinds = [EventKind::Create, EventKind::Chmod, EventKind::Write];
            return kinds.into_iter().try_for_each(|kind| self.send(context, &path, kind));
        }
        let is_folder = event.mask.contains(AddWatchFlags::IN_ISDIR) && event.name.is_some();
        if is_folder && kind == EventKind::Rename {
            self.forget(&path);
        }
        let was_scanned = kind != EventKind::Write && self.scanned.remove(&path);
        let is_new = event.mask.contains(AddWatchFlags::IN_CREATE);
        if was_scanned && is_new {
            return Ok(());
        }
        self.send(context, &path, kind)?;
        if is_folder && kind == EventKind::Create && self.scope.recursive && self.add(&path)? {
            self.scan(context, &path, is_new)?;
        }
        Ok(())
    }

    /// Reports and watches what is in a folder that was moved here, or made.
    fn scan<W: Write>(
        &mut self,
        context: &mut Context<'_, W>,
        folder: &Path,
        is_new: bool,
    ) -> Result<()> {
        self.add_below(folder, |watcher, path| {
            if watcher.scanned.len() < MAX_ENTRIES {
                watcher.scanned.insert(path.to_owned());
            }
            watcher.send(context, path, EventKind::Create)?;
            let found = fs::symlink_metadata(watcher.top.join(path));
            let has_content = found.is_ok_and(|found| found.is_file() && found.len() > 0);
            if is_new && has_content {
                watcher.send(context, path, EventKind::Write)?;
            }
            Ok(())
        })
    }

    /// Ends the watches of a folder that was moved away, and of those in it.
    fn forget(&mut self, folder: &Path) {
        let moved = self.folders.iter().filter(|(_, path)| path.starts_with(folder));
        for descriptor in moved.map(|(descriptor, _)| *descriptor).collect::<Vec<_>>() {
            // Fails for a folder that was removed meanwhile.
            let _ = self.inotify.rm_watch(descriptor);
            self.folders.remove(&descriptor);
        }
    }

    fn send<W: Write>(
        &self,
        context: &mut Context<'_, W>,
        path: &Path,
        kind: EventKind,
    ) -> Result<()> {
        let is_there = !matches!(kind, EventKind::Remove | EventKind::Rename);
        let entry = (self.scope.include_entry && is_there)
            .then(|| describe(&self.top.join(path), Follow::No, &context.names).ok())
            .flatten();
        let (name, _) = shown_path(path);
        let name = if name.is_empty() { ".".to_owned() } else { name };
        let entry = entry.map(|(entry, _)| entry);
        context.output.reply(&Reply::Event(Event { name, kind, entry }))
    }
}

/// Whether a file has a name of the form `.NAME.RANDOM.partial`, which the guest's service gives to a file
/// until the host has sent all of it.
fn is_partial(name: &OsStr) -> bool {
    let parts = name.as_bytes().strip_prefix(b".").and_then(|it| it.strip_suffix(b".partial"));
    let Some((name, random)) = parts.and_then(|parts| parts.split_last_chunk::<16>()) else {
        return false;
    };
    name.ends_with(b".") && random.iter().all(u8::is_ascii_hexdigit)
}

fn kind_of(mask: AddWatchFlags) -> Option<EventKind> {
    let kinds = [
        (AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO, EventKind::Create),
        (AddWatchFlags::IN_MODIFY, EventKind::Write),
        (AddWatchFlags::IN_DELETE, EventKind::Remove),
        (AddWatchFlags::IN_MOVED_FROM, EventKind::Rename),
        (AddWatchFlags::IN_ATTRIB, EventKind::Chmod),
    ];
    kinds.into_iter().find(|(flags, _)| mask.intersects(*flags)).map(|(_, kind)| kind)
}
