//! Remains of requests, and the spare cgroup for the next command.
//!
//! None of this is urgent: the loop calls [`Garbage::collect`] when it has nothing else to do, so
//! that neither making nor removing a cgroup is on a command's path.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::{fs, io};

use process::{Cgroup, Child};

#[derive(Debug)]
pub(crate) struct Garbage {
    parent: Option<PathBuf>,
    count: u64,
    spare: Option<Cgroup>,
    /// Of commands that ended; their descendants may live on.
    cgroups: Vec<Cgroup>,
    /// Killed, but not dead when their connection ended.
    children: Vec<Child>,
    /// Of requests that ended; they are about to end too, unless a system call holds them.
    threads: Vec<JoinHandle<()>>,
}

impl Garbage {
    pub(crate) fn new(parent: Option<PathBuf>) -> Self {
        if let Some(parent) = &parent
            && let Err(error) = enable_controllers(parent)
        {
            log::warn!("commands' cgroups have no controllers; error={error}");
        }
        Self {
            parent,
            count: 0,
            spare: None,
            cgroups: Vec::new(),
            children: Vec::new(),
            threads: Vec::new(),
        }
    }

    /// A cgroup for a command: the spare one, if it is ready.
    pub(crate) fn take_cgroup(&mut self) -> process::Result<Option<Cgroup>> {
        match self.spare.take() {
            Some(spare) => Ok(Some(spare)),
            None => self.make_cgroup(),
        }
    }

    /// Takes over the remains of a command that ended.
    pub(crate) fn add_cgroup(&mut self, cgroup: Option<Cgroup>) {
        self.cgroups.extend(cgroup);
    }

    /// Takes over a process that was killed.
    pub(crate) fn add_child(&mut self, child: Child) {
        self.children.push(child);
    }

    /// Takes over a thread that has done its work, or was told to stop.
    pub(crate) fn add_thread(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    /// Makes the spare cgroup and removes what has come to its end.
    pub(crate) fn collect(&mut self) {
        if self.spare.is_none() {
            match self.make_cgroup() {
                Ok(spare) => self.spare = spare,
                Err(error) => log::warn!("no spare cgroup; error={error}"),
            }
        }
        // Dropping an empty cgroup removes it.
        self.cgroups.retain(|cgroup| cgroup.is_populated().unwrap_or(false));
        self.children.retain(|child| matches!(child.try_wait(), Ok(None)));
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            if thread.join().is_err() {
                log::error!("a request's thread panicked");
            }
        }
    }

    fn make_cgroup(&mut self) -> process::Result<Option<Cgroup>> {
        let Some(parent) = &self.parent else {
            return Ok(None);
        };
        loop {
            self.count += 1;
            match Cgroup::create(parent, &self.count.to_string()) {
                // Left by a service before this one, with a process that cannot be killed.
                Err(error) if error.errno() == Some(libc::EEXIST) => {}
                made => return made.map(Some),
            }
        }
    }
}

/// Gives each cgroup below `parent` the controllers that its user may pass on to containers. No limit
/// is set by them; that of memory tells which command a process that the kernel killed belonged to.
fn enable_controllers(parent: &Path) -> io::Result<()> {
    fs::create_dir_all(parent)?;
    let file = parent.join("cgroup.subtree_control");
    fs::write(&file, "+memory")?;
    // What is not there is missed by containers with limits alone.
    for controller in ["+pids", "+cpu"] {
        if let Err(error) = fs::write(&file, controller) {
            log::debug!("no such controller for commands; controller={controller} error={error}");
        }
    }
    Ok(())
}
