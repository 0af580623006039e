//! The socket that a guest dials.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mio::Token;

use super::guest::Guest;
use super::inbox::{Arrival, Delivery, End, Inbox};
use super::ports::Ports;
use super::remote::{Command, Remote};
use crate::deadline::Deadline;
use crate::{Error, Result};

/// A Unix socket that one guest dials, again after a lost connection. Dropping it closes and
/// unlinks the socket; a guest that was accepted stays.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    inode: Option<(u64, u64)>,
    token: Token,
    inbox: Arc<Inbox>,
    remote: Remote,
}

impl Listener {
    pub(crate) fn bind(path: &Path, vm: String, remote: &Remote) -> Result<Self> {
        let failed = |source| Error::Listen { path: path.to_owned(), source };
        let socket = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let inbox = Arc::new(Inbox::new(Arrival::default()));
        let token = remote.next_token();
        let listener = Self {
            path: path.to_owned(),
            inode: inode(path).ok(),
            token,
            inbox: Arc::clone(&inbox),
            remote: remote.clone(),
        };
        remote.send(Command::Listen { token, socket, delivery: Delivery::new(inbox), vm })?;
        Ok(listener)
    }

    /// Waits for a guest that is ready. Only the newest connection lives: one that comes later
    /// ends this one, and the next call returns it.
    ///
    /// A later connection is taken only from the service that was there before: its hello has the
    /// secret of this listener. Another process of the guest is turned away.
    ///
    /// A first guest of another protocol version is an error here, once.
    pub fn accept(&self, deadline: Instant) -> Result<Guest> {
        let deadline = Deadline::new(deadline);
        let accepted = self.inbox.wait(&deadline, |arrival| match arrival.newest.take() {
            // The guest was lost before this call.
            Some(Ok(handle)) if handle.connection.is_closed() => arrival.end.map(Err),
            Some(newest) => Some(Ok(newest)),
            None => arrival.end.map(Err),
        });
        match accepted {
            Ok(Ok(newest)) => newest.map(Guest::new),
            Ok(Err(End::Closed)) => Err(Error::ListenerClosed),
            Ok(Err(End::Stopped)) => Err(Error::Stopped),
            Ok(Err(End::Panicked)) => Err(Error::Panicked),
            Err(halt) => Err(halt.during(self.inbox.with(|arrival| arrival.awaited.clone()))),
        }
    }

    /// The ports of the guest that is connected here.
    pub fn ports(&self) -> Ports {
        Ports::new(self.token, self.remote.clone())
    }

    /// Stops listening, unlinks the socket and ends every call that waits here.
    pub fn close(&self) {
        let before = self.inbox.update(|arrival| arrival.end.replace(End::Closed));
        if before != Some(End::Closed) {
            // Without a reactor the socket is closed already.
            let _ = self.remote.send(Command::Unlisten(self.token));
            self.unlink();
        }
    }

    /// Removes the socket, unless something else has its name by now.
    fn unlink(&self) {
        if self.inode.is_none() || inode(&self.path).ok() != self.inode {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove a socket; path={} error={error}", self.path.display());
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
