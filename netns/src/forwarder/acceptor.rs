//! A listening socket: accepts in batches, retries after errors, and can refuse connections.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use nix::sys::socket::{Backlog, listen, setsockopt, shutdown, sockopt};

use super::context::Context;

/// Connections accepted before other sockets get their turn.
const BATCH: usize = 64;
/// The listen backlog.
const BACKLOG: i32 = 1024;
/// The delay before accepting again when this process has no free file descriptor.
const RETRY_DELAY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    pub(super) token: Token,
    retry_at: Option<Instant>,
    is_listening: bool,
    /// Differs from `is_listening` after a failed change, until the retry.
    wants_listening: bool,
}

impl Acceptor {
    pub(super) fn open(listener: std::net::TcpListener, context: &mut Context<'_>) -> Self {
        let mut listener = TcpListener::from_std(listener);
        let token = context.register(&mut listener, Interest::READABLE);
        Self { listener, token, retry_at: None, is_listening: true, wants_listening: true }
    }

    /// Accepts the waiting connections: at most `room`, and at most one batch.
    pub(super) fn accept(&mut self, room: usize, context: &mut Context<'_>) -> Vec<TcpStream> {
        let mut accepted = Vec::new();
        self.retry_at = None;
        if self.wants_listening != self.is_listening {
            self.set_listening(self.wants_listening);
        }
        if !self.is_listening {
            return accepted;
        }
        while accepted.len() < BATCH.min(room) {
            match self.listener.accept() {
                Ok((stream, _)) => accepted.push(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return accepted,
                // The client closed the connection before it was accepted.
                Err(error) if concerns_one_connection(error.kind()) => {}
                Err(error) => {
                    log::warn!("cannot accept connections, will retry; error={error}");
                    self.retry_at = Some(Instant::now() + RETRY_DELAY);
                    return accepted;
                }
            }
        }
        // The others wait in the backlog for the next turn, or until there is room.
        if accepted.len() < room {
            context.set_ready(self.token);
        }
        accepted
    }

    /// Makes the kernel accept connections or refuse them. The socket stays bound to its address.
    pub(super) fn set_listening(&mut self, wanted: bool) {
        self.wants_listening = wanted;
        if self.is_listening == wanted {
            return;
        }
        let done = if wanted { self.listen() } else { self.refuse() };
        match done {
            Ok(()) => self.is_listening = wanted,
            Err(error) => {
                log::warn!("cannot change whether a port listens, will retry; error={error}");
                self.retry_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    fn listen(&self) -> io::Result<()> {
        // Earlier connections may be in TIME_WAIT.
        setsockopt(&self.listener, sockopt::ReuseAddr, &true)?;
        Ok(listen(&self.listener, Backlog::new(BACKLOG)?)?)
    }

    /// Shuts the socket down: it stops listening but stays bound. Without SO_REUSEADDR no other program
    /// can bind to its address.
    fn refuse(&self) -> io::Result<()> {
        shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
        Ok(setsockopt(&self.listener, sockopt::ReuseAddr, &false)?)
    }

    /// When to call [`accept`](Self::accept) without an event.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        context.deregister(&mut self.listener, self.token);
    }
}

fn concerns_one_connection(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
