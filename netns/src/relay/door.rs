//! A socket where connections come in: so many at a time, and what becomes of errors.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use nix::sys::socket::{Backlog, listen, setsockopt, shutdown, sockopt};

use super::reactor::Context;

/// As many are taken before it is another socket's turn.
const AT_ONCE: usize = 64;
/// As many may wait until they are taken.
const BACKLOG: i32 = 1024;
/// When to try again where this process has no descriptor left for a connection.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    pub(super) token: Token,
    retry: Option<Instant>,
    is_listening: bool,
    /// Whether it is to listen.
    wanted: bool,
}

impl Door {
    pub(super) fn open(listener: std::net::TcpListener, context: &mut Context<'_>) -> Self {
        let mut listener = TcpListener::from_std(listener);
        let token = context.register(&mut listener, Interest::READABLE);
        Self { listener, token, retry: None, is_listening: true, wanted: true }
    }

    /// The connections that have come, as far as it is their turn, at most `room`.
    pub(super) fn take(&mut self, room: usize, context: &mut Context<'_>) -> Vec<TcpStream> {
        let mut taken = Vec::new();
        self.retry = None;
        if self.wanted != self.is_listening {
            self.set_listening(self.wanted);
        }
        if !self.is_listening {
            return taken;
        }
        while taken.len() < AT_ONCE.min(room) {
            match self.listener.accept() {
                Ok((stream, _)) => taken.push(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                // It had gone before it was taken.
                Err(error) if is_its_own(error.kind()) => {}
                Err(error) => {
                    log::warn!("connections have to wait; error={error}");
                    self.retry = Some(Instant::now() + PAUSE);
                    return taken;
                }
            }
        }
        // The rest waits in the backlog, for its turn or until there is room.
        if taken.len() < room {
            context.again(self.token);
        }
        taken
    }

    /// Has the kernel take connections or refuse them. The address stays this socket's either way.
    pub(super) fn set_listening(&mut self, wanted: bool) {
        self.wanted = wanted;
        if self.is_listening == wanted {
            return;
        }
        let done = if wanted { self.listen() } else { self.refuse() };
        match done {
            Ok(()) => self.is_listening = wanted,
            Err(error) => {
                log::warn!("a port cannot be listened to, try again soon; error={error}");
                self.retry = Some(Instant::now() + PAUSE);
            }
        }
    }

    fn listen(&self) -> io::Result<()> {
        // Connections of before may linger.
        setsockopt(&self.listener, sockopt::ReuseAddr, &true)?;
        Ok(listen(&self.listener, Backlog::new(BACKLOG)?)?)
    }

    /// A socket that is shut down listens no more, and is still bound. As nobody may share its address
    /// now, no other program can listen there.
    fn refuse(&self) -> io::Result<()> {
        shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
        Ok(setsockopt(&self.listener, sockopt::ReuseAddr, &false)?)
    }

    /// When to [`take`](Self::take) again, though nothing says so.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        context.forget(&mut self.listener, self.token);
    }
}

fn is_its_own(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
