//! A socket where connections come in: so many at a time, and what becomes of errors.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};

use super::reactor::Context;

/// As many are taken before it is another socket's turn.
const AT_ONCE: usize = 64;
/// When to try again where this process has no descriptor left for a connection.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    pub(super) token: Token,
    retry: Option<Instant>,
}

impl Door {
    pub(super) fn open(listener: std::net::TcpListener, context: &mut Context<'_>) -> Self {
        let mut listener = TcpListener::from_std(listener);
        let token = context.register(&mut listener, Interest::READABLE);
        Self { listener, token, retry: None }
    }

    /// The connections that have come, as far as it is their turn.
    pub(super) fn take(&mut self, context: &mut Context<'_>) -> Vec<TcpStream> {
        let mut taken = Vec::new();
        self.retry = None;
        while taken.len() < AT_ONCE {
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
        context.again(self.token);
        taken
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
