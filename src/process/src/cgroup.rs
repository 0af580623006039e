//! A cgroup of version 2, for one process and all its descendants.
//!
//! INVARIANT: the creator of a cgroup kills its processes and removes it. A descendant cannot leave it,
//! whatever session, process group or parent it has.

use std::fs;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Error, Result, poll_timeout};

/// The file that reports whether a cgroup has processes.
const EVENTS: &str = "cgroup.events";

/// The file that counts OOM events.
const MEMORY_EVENTS: &str = "memory.events";

/// The files that belong to the user of a delegated cgroup.
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// A cgroup. Dropping its creator's handle removes it if it is empty.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
    is_ours: bool,
}

/// The OOM events of a cgroup and its descendants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// How often a memory limit was reached and nothing could be reclaimed.
    pub limit_reached: u64,
    /// How many processes the OOM killer killed, for a limit or for the whole machine.
    pub oom_kills: u64,
}

/// Where cgroup v2 is mounted.
pub fn mount_point() -> Result<PathBuf> {
    const MOUNTS: &str = "/proc/self/mounts";
    let mounts = fs::read_to_string(MOUNTS).map_err(failed("read", Path::new(MOUNTS)))?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .ok_or(Error::NoCgroup2)
}

impl Cgroup {
    /// Creates `name` below `parent`, which is created if it is missing.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(parent).map_err(failed("create", parent))?;
                fs::create_dir(&path).map_err(failed("create", &path))?;
            }
            other => other.map_err(failed("create", &path))?,
        }
        Self::open_path(path, true)
    }

    /// Opens `name` below `parent`, if it exists. Dropping the handle does not remove it.
    pub fn open(parent: &Path, name: &str) -> Result<Option<Self>> {
        match Self::open_path(parent.join(name), false) {
            Err(Error::Cgroup { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    fn open_path(path: PathBuf, is_ours: bool) -> Result<Self> {
        let folder = fs::File::open(&path).map_err(failed("open", &path))?.into();
        Ok(Self { path, folder, is_ours })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder's descriptor, for clone3.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Writes to one of its control files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(failed("write to", &path))
    }

    /// Lets a user make cgroups below it and move processes among those, as cgroup v2 defines
    /// delegation. The user's processes still cannot leave it: that takes the right to write to a
    /// cgroup above.
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<()> {
        let files = DELEGATED.map(|file| self.path.join(file));
        std::iter::once(&self.path).chain(&files).try_for_each(|path| {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(failed("delegate", path))
        })
    }

    /// Its OOM events; needs the memory controller.
    pub fn memory_events(&self) -> Result<MemoryEvents> {
        let path = self.path.join(MEMORY_EVENTS);
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        Ok(MemoryEvents::parse(&text))
    }

    /// Kills all its processes at once.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Whether any process is in it or below it. Zombies do not count.
    pub fn is_populated(&self) -> Result<bool> {
        let path = self.path.join(EVENTS);
        let events = fs::File::open(&path).map_err(failed("open", &path))?;
        is_populated(&events, &path)
    }

    /// Waits until no process is in it.
    pub fn wait_empty(&self, deadline: Instant) -> Result<()> {
        let path = self.path.join(EVENTS);
        let events = fs::File::open(&path).map_err(failed("open", &path))?;
        // Each read arms the file to report the next change once.
        while is_populated(&events, &path)? {
            let timeout = poll_timeout(deadline);
            if timeout == PollTimeout::ZERO {
                return Err(Error::CgroupBusy { path: self.path.clone() });
            }
            let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed("watch", &path)(errno.into())),
            }
        }
        Ok(())
    }

    /// Removes it with its descendant cgroups. It must be empty.
    pub fn remove(&self) -> Result<()> {
        remove_tree(&self.path)
    }

    /// Kills what is in it, waits, and removes it.
    pub fn destroy(&self, deadline: Instant) -> Result<()> {
        self.kill()?;
        self.wait_empty(deadline)?;
        self.remove()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Removed already, or busy and then its owner's next sweep finds it by name.
        if self.is_ours
            && let Err(error) = remove_tree(&self.path)
        {
            log::debug!("cannot remove a cgroup; path={} error={error}", self.path.display());
        }
    }
}

impl MemoryEvents {
    fn parse(text: &str) -> Self {
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
        };
        Self { limit_reached: count("oom"), oom_kills: count("oom_kill") }
    }
}

fn is_populated(mut events: &fs::File, path: &Path) -> Result<bool> {
    events.rewind().map_err(failed("rewind", path))?;
    let text = io::read_to_string(events).map_err(failed("read", path))?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

/// Removes depth first; a missing cgroup is no error.
fn remove_tree(path: &Path) -> Result<()> {
    let children = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("list", path))?,
    };
    for child in children.flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("remove", path)),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cgroup { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_with_a_common_prefix_are_distinguished() {
        let text = "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n";
        let events = MemoryEvents { limit_reached: 2, oom_kills: 3 };
        assert_eq!(MemoryEvents::parse(text), events);
        assert_eq!(MemoryEvents::parse("nonsense"), MemoryEvents::default());
    }
}
