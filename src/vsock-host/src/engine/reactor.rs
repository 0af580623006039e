//! The owner of the reactor's thread.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{bounded, unbounded};
use mio::{Poll, Waker};

use super::event_loop::EventLoop;
use crate::call::{Command, Guest, Listener, Remote, WAKER};
use crate::monitor::lock;
use crate::wire::dial;
use crate::{Error, Result};

/// Serves all guests of a process by one thread, named `vsock`. Clones share it; it stops with
/// [`Reactor::stop`] or when the last is dropped, and then every guest's calls end.
#[derive(Debug, Clone)]
pub struct Reactor {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    remote: Remote,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Reactor {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let failed = |source| Error::Start { source };
        let poll = Poll::new().map_err(failed)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed)?;
        let (sender, commands) = unbounded();
        let remote = Remote::new(sender, waker);
        let event_loop = EventLoop::new(poll, remote.clone(), commands).map_err(failed)?;
        let thread = thread::Builder::new()
            .name("vsock".into())
            .spawn(move || event_loop.run())
            .map_err(failed)?;
        Ok(Self { owner: Arc::new(Owner { remote, thread: Mutex::new(Some(thread)) }) })
    }

    /// Creates a Unix socket at `path` for one guest to dial. The caller controls access:
    /// it may change the socket's mode and owner after this call.
    /// Warnings about its peers name `vm`.
    pub fn listen(&self, path: &Path, vm: impl Into<String>) -> Result<Listener> {
        Listener::bind(path, vm.into(), &self.owner.remote)
    }

    /// Connects to a relay, such as a VM's control socket, and uses the guest behind it.
    pub fn connect(&self, path: &Path, deadline: Instant) -> Result<Guest> {
        self.adopt(dial::connect(path, deadline)?, deadline)
    }

    /// Uses a connection whose peer must send the hello.
    pub fn adopt(&self, stream: UnixStream, deadline: Instant) -> Result<Guest> {
        stream.set_nonblocking(true).map_err(|source| Error::Adopt { source })?;
        let (reply, answer) = bounded(1);
        self.owner.remote.send(Command::Adopt { stream, deadline, reply })?;
        // The reactor answers at the deadline at the latest, or is gone.
        answer.recv().unwrap_or(Err(Error::Stopped)).map(Guest::new)
    }

    /// Ends every guest's connection and the thread.
    pub fn stop(self) -> Result<()> {
        self.owner.stop()
    }
}

impl Owner {
    fn stop(&self) -> Result<()> {
        let Some(thread) = lock(&self.thread).take() else {
            return Ok(());
        };
        // Fails only if the thread has ended by itself, and then the join says why.
        let _ = self.remote.send(Command::Stop);
        thread.join().unwrap_or(Err(Error::Panicked))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::error!("the reactor did not end well; thread=vsock error={error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_panic_ends_those_who_wait_and_is_reported_by_stop() {
        let reactor = Reactor::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let listener = reactor.listen(&folder.path().join("v.sock_1000"), "a").unwrap();
        reactor.owner.remote.send(Command::Panic).unwrap();
        assert!(matches!(listener.accept(soon()), Err(Error::Panicked)));
        assert!(matches!(reactor.stop(), Err(Error::Panicked)));
    }

    #[test]
    fn after_a_stop_of_one_clone_the_others_say_so() {
        let reactor = Reactor::start().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        reactor.clone().stop().unwrap();
        assert!(matches!(reactor.adopt(ours, soon()), Err(Error::Stopped)));
    }

    #[test]
    fn a_listener_waits_no_longer_than_its_reactor_lives() {
        let reactor = Reactor::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let listener = reactor.listen(&folder.path().join("v.sock_1000"), "a").unwrap();
        reactor.stop().unwrap();
        assert!(matches!(listener.accept(soon()), Err(Error::Stopped)));
    }
}
