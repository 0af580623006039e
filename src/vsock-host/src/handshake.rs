//! The handshake: turns a new connection into a guest that is ready.
//!
//! ```text
//!   accepted, adopted ─▶ Hello ─ Welcome ─▶ Ready ─▶ a Link, and a Guest for its caller
//!                          ├─ other version: Reject
//!                          └─ without the secret, once the VM's service has it: closed
//! ```

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use mio::Token;
use vsock_proto::{
    Decoder, GuestBody, GuestMessage, Hello, HostBody, HostMessage, LinkSecret, Ready, RequestId,
};

use crate::connection::{Connection, Handle, Identity};
use crate::engine::Engine;
use crate::intake::{READS, Turn, receive};
use crate::link::Link;
use crate::outbox::Buffer;
use crate::reception::Listening;
use crate::registration::Registration;
use crate::request::{TEXT, printable};
use crate::{Error, Guest, Loss, Phase, Result};

/// A kernel's release is kept up to this many bytes.
const RELEASE: usize = 256;

/// A connection that is not a guest yet.
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

enum Progress {
    Waiting(Turn),
    Complete(Hello, Ready),
}

pub(crate) enum Origin {
    /// The guest dialled this listener.
    Listener(Token),
    /// A caller waits for this connection.
    Caller(Sender<Result<Guest>>),
}

impl Engine {
    pub(crate) fn adopt(
        &mut self,
        stream: UnixStream,
        deadline: Instant,
        reply: Sender<Result<Guest>>,
    ) {
        self.greet(stream, deadline, Origin::Caller(reply));
    }

    pub(crate) fn greet(&mut self, stream: UnixStream, deadline: Instant, origin: Origin) {
        let token = self.remote.next_token();
        let registration = self.watch(token);
        let handshake = Handshake {
            socket: Arc::new(stream),
            registration,
            decoder: Decoder::new(),
            hello: None,
            since: Instant::now(),
            deadline,
            origin,
        };
        if let Err(source) = handshake.registration.register(&*handshake.socket) {
            return self.refuse(handshake, Error::Adopt { source });
        }
        self.timers.insert((deadline, token));
        self.handshakes.insert(token, handshake);
    }

    pub(crate) fn read_handshake(&mut self, token: Token) {
        let Some(mut handshake) = self.handshakes.remove(&token) else {
            return;
        };
        self.timers.remove(&(handshake.deadline, token));
        match handshake.advance(&self.listeners) {
            Ok(Progress::Waiting(turn)) => {
                self.tell_phase(&handshake);
                if turn == Turn::More {
                    self.unfinished.insert(token);
                }
                self.timers.insert((handshake.deadline, token));
                self.handshakes.insert(token, handshake);
            }
            Ok(Progress::Complete(hello, ready)) if self.admits(&handshake, hello.secret) => {
                self.establish(handshake, hello, ready);
            }
            // Another was ready before it.
            Ok(Progress::Complete(..)) => self.refuse(handshake, Error::NotTheService),
            Err(error) => self.refuse(handshake, error),
        }
    }

    /// Whether the peer may be the guest's service. An adopted connection is the caller's choice.
    fn admits(&self, handshake: &Handshake, shown: Option<LinkSecret>) -> bool {
        let listening = handshake.listening(&self.listeners);
        listening.is_none_or(|listening| listening.admits(shown))
    }

    /// Ends a greeting that takes too long.
    pub(crate) fn give_up(&mut self, handshake: Handshake) {
        let error = Error::TimedOut { after: handshake.since.elapsed(), phase: handshake.phase() };
        self.refuse(handshake, error);
    }

    fn establish(&mut self, handshake: Handshake, hello: Hello, ready: Ready) {
        let token = handshake.registration.token();
        let Handshake { socket, registration, decoder, origin, .. } = handshake;
        let identity = Identity {
            boot_id: hello.boot_id,
            previous_failure: hello.previous_failure.map(|text| printable(text, TEXT)),
            ready: Ready { kernel: printable(ready.kernel, RELEASE), ..ready },
        };
        let connection = Arc::new(Connection::new(socket, registration, identity));
        let handle = Handle { connection: Arc::clone(&connection), remote: self.remote.clone() };
        let guest = Guest::new(Arc::new(handle));
        self.guests.insert(token, Link::new(connection, decoder));
        // The first turn takes what came right behind the greeting.
        self.unfinished.insert(token);
        match origin {
            Origin::Listener(listener) => self.replace(listener, token, guest),
            // If the caller is gone, then the guest is closed by being dropped.
            Origin::Caller(reply) => drop(reply.send(Ok(guest))),
        }
    }

    /// Rejects a connection.
    fn refuse(&mut self, handshake: Handshake, error: Error) {
        if let Error::Hello { source: source @ vsock_proto::Error::Version { .. } } = &error {
            // If it is lost, then the guest gets it at its next attempt.
            let _ = handshake.send(HostBody::Reject(source.to_string()));
        }
        handshake.registration.forget(&*handshake.socket);
        match handshake.origin {
            Origin::Caller(reply) => drop(reply.send(Err(error))),
            Origin::Listener(listener) => {
                let Some(listening) = self.listeners.get(&listener) else {
                    return;
                };
                listening.delivery.awaits(Phase::Dial);
                let is_version =
                    matches!(error, Error::Hello { source: vsock_proto::Error::Version { .. } });
                // After that, any process of the guest may claim a version.
                if is_version && listening.is_unclaimed() {
                    listening.delivery.put(Err(error));
                } else {
                    self.warn_of_refusal(listener, &Chain(&error));
                }
            }
        }
    }

    fn tell_phase(&self, handshake: &Handshake) {
        if let Origin::Listener(listener) = handshake.origin
            && let Some(listening) = self.listeners.get(&listener)
        {
            listening.delivery.awaits(handshake.phase());
        }
    }
}

impl Handshake {
    pub(crate) fn is_from(&self, listener: Token) -> bool {
        matches!(self.origin, Origin::Listener(token) if token == listener)
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The listener that it dialled, if any.
    fn listening<'a>(&self, listeners: &'a BTreeMap<Token, Listening>) -> Option<&'a Listening> {
        match self.origin {
            Origin::Listener(token) => listeners.get(&token),
            Origin::Caller(_) => None,
        }
    }

    fn phase(&self) -> Phase {
        if self.hello.is_none() { Phase::Hello } else { Phase::Ready }
    }

    /// Reads, and answers the hello.
    fn advance(&mut self, listeners: &BTreeMap<Token, Listening>) -> Result<Progress> {
        for _ in 0..READS {
            if !receive(&self.socket, &mut self.decoder).map_err(|loss| self.lost(loss))? {
                return Ok(Progress::Waiting(Turn::Done));
            }
            if self.hello.is_none() {
                let hello = Hello::decode(&mut self.decoder);
                self.hello = hello.map_err(|source| Error::Hello { source })?;
                if let Some(hello) = &self.hello {
                    let listening = self.listening(listeners);
                    if listening.is_some_and(|listening| !listening.admits(hello.secret)) {
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
                return Ok(Progress::Complete(hello, ready));
            }
        }
        Ok(Progress::Waiting(Turn::More))
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

/// An error with its causes, for a log.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
