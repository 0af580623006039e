//! The handshake: turns a new connection into a guest that is ready.
//!
//! ```text
//!   accepted, adopted ─▶ Hello ─ Welcome ─▶ Ready ─▶ a Link, and a Guest for its caller
//!                          ├─ other version: Reject
//!                          └─ without the secret, once the VM's service has it: closed
//! ```

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use mio::Token;
use vsock_proto::{
    Decoder, GuestBody, GuestMessage, Hello, HostBody, HostMessage, Ready, RequestId,
};

use super::listening::Listening;
use super::schedule::Schedule;
use crate::call::{Connection, Handle, Identity};
use crate::wire::intake::{READS, Turn, receive};
use crate::wire::outbox::Buffer;
use crate::wire::registration::Registration;
use crate::wire::text::{TEXT, printable};
use crate::{Error, Loss, Phase, Result};

/// A kernel's release is kept up to this many bytes.
const RELEASE: usize = 256;

/// A connection that is not a guest yet.
#[derive(Debug)]
pub(crate) struct Handshake {
    socket: Arc<UnixStream>,
    registration: Registration,
    decoder: Decoder,
    /// From the hello, once it has come.
    hello: Option<Hello>,
    since: Instant,
    deadline: Instant,
    origin: Origin,
}

#[derive(Debug)]
pub(crate) enum Progress {
    Waiting(Turn),
    Complete(Hello, Ready),
}

#[derive(Debug)]
pub(crate) enum Origin {
    /// The guest dialled this listener.
    Listener(Token),
    /// A caller waits for this connection.
    Caller(Sender<Result<Handle>>),
}

impl Handshake {
    pub(crate) fn new(
        stream: UnixStream,
        registration: Registration,
        deadline: Instant,
        origin: Origin,
    ) -> Self {
        Self {
            socket: Arc::new(stream),
            registration,
            decoder: Decoder::new(),
            hello: None,
            since: Instant::now(),
            deadline,
            origin,
        }
    }

    pub(crate) fn register(&self) -> Result<()> {
        self.registration.register(&*self.socket).map_err(|source| Error::Adopt { source })
    }

    pub(crate) fn token(&self) -> Token {
        self.registration.token()
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The listener that the guest dialled, if it dialled one.
    pub(crate) fn listener(&self) -> Option<Token> {
        match self.origin {
            Origin::Listener(token) => Some(token),
            Origin::Caller(_) => None,
        }
    }

    /// The step that the peer must take.
    pub(crate) fn phase(&self) -> Phase {
        if self.hello.is_none() { Phase::Hello } else { Phase::Ready }
    }

    /// The error of a handshake that takes too long.
    pub(crate) fn timeout(&self) -> Error {
        Error::TimedOut { after: self.since.elapsed(), phase: self.phase() }
    }

    /// Reads, and answers the hello. `listening` is the listener; an adopted connection has none,
    /// and any peer of it is admitted.
    pub(crate) fn advance(&mut self, listening: Option<&Listening>) -> Result<Progress> {
        let admits =
            |hello: &Hello| listening.is_none_or(|listening| listening.admits(hello.secret));
        for _ in 0..READS {
            if !receive(&self.socket, &mut self.decoder).map_err(|loss| self.lost(loss))? {
                return Ok(Progress::Waiting(Turn::Done));
            }
            if self.hello.is_none() {
                let hello = Hello::decode(&mut self.decoder);
                self.hello = hello.map_err(|source| Error::Hello { source })?;
                if let Some(hello) = &self.hello {
                    if !admits(hello) {
                        return Err(Error::NotTheService);
                    }
                    let secret = listening.map(Listening::secret);
                    self.send(HostBody::Welcome(secret)).map_err(|loss| self.lost(loss))?;
                }
            }
            if self.hello.is_none() {
                continue;
            }
            if let Some(ready) = self.ready().map_err(|loss| self.lost(loss))?
                && let Some(hello) = self.hello.take()
            {
                // Another may have become ready before it.
                let is_admitted = admits(&hello);
                let complete = Progress::Complete(hello, ready);
                return if is_admitted { Ok(complete) } else { Err(Error::NotTheService) };
            }
        }
        Ok(Progress::Waiting(Turn::More))
    }

    /// The connection of a peer that is ready, with the bytes that came behind the handshake.
    pub(crate) fn complete(self, hello: Hello, ready: Ready) -> (Connection, Decoder, Origin) {
        let identity = Identity {
            boot_id: hello.boot_id,
            previous_failure: hello.previous_failure.map(|text| printable(text, TEXT)),
            ready: Ready { kernel: printable(ready.kernel, RELEASE), ..ready },
        };
        let connection = Connection::new(self.socket, self.registration, identity);
        (connection, self.decoder, self.origin)
    }

    /// Rejects the peer. `listening` is the listener that it dialled, unless that is closed.
    pub(crate) fn reject(
        self,
        error: Error,
        listening: Option<&mut Listening>,
        schedule: &mut Schedule,
    ) {
        if let Error::Hello { source: source @ vsock_proto::Error::Version { .. } } = &error {
            // If it is lost, then the guest gets it at its next attempt.
            let _ = self.send(HostBody::Reject(source.to_string()));
        }
        self.registration.forget(&*self.socket);
        if let Some(listening) = listening {
            listening.end_handshake(self.token());
            listening.report_rejection(error, schedule);
        } else if let Origin::Caller(reply) = self.origin {
            drop(reply.send(Err(error)));
        }
    }

    fn ready(&mut self) -> std::result::Result<Option<Ready>, Loss> {
        match self.decoder.next::<GuestMessage<'_>>()? {
            None => Ok(None),
            Some(GuestMessage { id: RequestId::LINK, body: GuestBody::Ready(ready) }) => {
                Ok(Some(ready))
            }
            Some(_) => {
                let place = "before a guest is ready";
                Err(Loss::Unexpected { message: "an answer", place })
            }
        }
    }

    /// Sends a message, which a new connection has room for.
    fn send(&self, body: HostBody<'_>) -> std::result::Result<(), Loss> {
        let mut buffer = Buffer::default();
        buffer.push(&HostMessage { id: RequestId::LINK, body })?;
        buffer.flush(&self.socket).map_err(|source| Loss::Socket { source })?;
        if buffer.is_empty() { Ok(()) } else { Err(Loss::Deaf { backlog: buffer.len() }) }
    }

    fn lost(&self, loss: Loss) -> Error {
        Error::Lost { phase: self.phase(), source: Arc::new(loss) }
    }
}
