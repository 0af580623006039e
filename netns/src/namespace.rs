//! A network namespace without a name. It ends, with everything in it, when its last file descriptor is
//! closed; so a killed runner leaves none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result};

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Namespace(File);

const THREAD: &str = "netns-enter";

impl Namespace {
    /// Makes a namespace and runs `work` in it.
    pub(crate) fn make<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<(Self, T)> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("make", errno.into()))?;
            let namespace = Self::current()?;
            Ok((namespace, work()?))
        })
    }

    /// The namespace of this thread.
    pub(crate) fn current() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        File::open(path).map(Self).map_err(|source| failed("open", source))
    }

    /// Another descriptor of the same namespace.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|source| failed("duplicate", source))
    }

    /// Runs `work` in it, on a temporary thread: no other thread ever changes its namespace.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| failed("enter", errno.into()))?;
            work()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = base::thread::spawn_scoped(scope, THREAD, work);
        let thread = thread.map_err(|source| Error::Thread { name: THREAD, source })?;
        thread.join().unwrap_or(Err(Error::Panicked { name: THREAD }))
    })
}

fn failed(operation: &'static str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPermitted,
        _ => Error::Namespace { operation, source },
    }
}
