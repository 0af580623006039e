//! A client of a relay: its connection, and its requests on their way to the guest and back.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use mio::Token;
use vsock_proto::{
    Decoder, Exit, Failure, GuestBody, GuestMessage, Hello, HostBody, HostMessage, Outcome,
    RequestId, SendWindow, Stream, StreamTotal, VERSION,
};

use crate::Loss;
use crate::answers::Answers;
use crate::connection::Connection;
use crate::intake::{READS, Turn, receive};
use crate::link::Link;
use crate::outbox::{Buffer, HIGH_WATER};
use crate::registration::Registration;

/// How many requests a client may have under way.
const REQUESTS: usize = 16;

/// The reactor ends a client with more unread bytes than this. Either it reads the output of none
/// of its requests, or a guest sends it many small messages.
pub(crate) const BACKLOG: usize = 16 << 20;

pub(crate) struct Client {
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) registration: Registration,
    pub(crate) decoder: Decoder,
    pub(crate) buffer: Buffer,
    guest: Token,
    /// Until when it has to answer the hello; `None` once it has.
    pub(crate) greeting: Option<Instant>,
    /// The reactor does not read it until its guest, or the client itself, has read more.
    is_paused: bool,
    pub(crate) requests: BTreeMap<RequestId, Relayed>,
}

/// One of its requests.
pub(crate) struct Relayed {
    /// Its id at the guest.
    pub(crate) id: RequestId,
    answers: Answers,
    /// The credit that the client has for sending.
    input: SendWindow,
    /// The credit that the guest has for sending.
    stdout: SendWindow,
    stderr: SendWindow,
}

/// The peer that broke the protocol.
pub(crate) enum Fault {
    Guest(Loss),
    Client(Loss),
}

impl Client {
    pub(crate) fn new(
        socket: UnixStream,
        registration: Registration,
        guest: Token,
        deadline: Instant,
    ) -> Self {
        Self {
            socket: Arc::new(socket),
            registration,
            decoder: Decoder::new(),
            buffer: Buffer::default(),
            guest,
            greeting: Some(deadline),
            is_paused: false,
            requests: BTreeMap::new(),
        }
    }

    /// The guest that serves it.
    pub(crate) fn guest(&self) -> Token {
        self.guest
    }

    /// Whether it may be read again.
    pub(crate) fn is_resumable(&self) -> bool {
        self.is_paused && self.buffer.len() <= HIGH_WATER
    }

    /// Whether reading is paused because `guest` does not read.
    pub(crate) fn waits_for(&self, guest: Token) -> bool {
        self.is_paused && self.guest == guest
    }

    /// Sends the hello on behalf of the guest.
    pub(crate) fn greet(&mut self, connection: &Connection) -> Result<(), Loss> {
        let failed = |source| Loss::Socket { source };
        self.socket.set_nonblocking(true).map_err(failed)?;
        self.registration.register(&*self.socket).map_err(failed)?;
        let boot_id = connection.identity.boot_id;
        let hello = Hello { version: VERSION, boot_id, previous_failure: None, secret: None };
        self.buffer.push_hello(&hello)?;
        self.flush()
    }

    /// Forwards the client's messages to the guest.
    pub(crate) fn hear(
        &mut self,
        token: Token,
        link: &mut Link,
        decoder: &mut Decoder,
    ) -> Result<Turn, Loss> {
        for _ in 0..READS {
            while let Some(message) = decoder.next()? {
                self.handle_message(token, link, message)?;
            }
            let backlog = link.connection.outbox.backlog().max(self.buffer.len());
            self.is_paused = backlog > HIGH_WATER;
            if self.is_paused || !receive(&self.socket, decoder)? {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    fn handle_message(
        &mut self,
        token: Token,
        link: &mut Link,
        message: HostMessage<'_>,
    ) -> Result<(), Loss> {
        let HostMessage { id, body } = message;
        if self.greeting.is_some() {
            return self.admit(&body, &link.connection);
        }
        if body.is_request() {
            return self.start(token, link, id, body);
        }
        let Some(request) = self.requests.get_mut(&id) else {
            return Ok(());
        };
        match &body {
            HostBody::Data([]) => return Ok(()),
            HostBody::Data(bytes) => spend(&mut request.input, bytes.len() as u64)?,
            HostBody::Entry(entry) => spend(&mut request.input, entry.cost())?,
            HostBody::Credit(stream, count) => request.output(*stream).granted(*count)?,
            _ => {}
        }
        link.connection.send_now(request.id, body).map_err(|_| Loss::GuestGone)
    }

    /// Takes the client's answer to the hello.
    fn admit(&mut self, answer: &HostBody<'_>, connection: &Connection) -> Result<(), Loss> {
        match answer {
            HostBody::Welcome(_) => {
                self.greeting = None;
                let ready = connection.identity.ready.clone();
                self.send(RequestId::LINK, GuestBody::Ready(ready))
            }
            HostBody::Reject(_) => Err(Loss::Closed),
            _ => Err(Loss::Unexpected { message: "a request", place: "before the greeting" }),
        }
    }

    fn start(
        &mut self,
        token: Token,
        link: &mut Link,
        id: RequestId,
        body: HostBody<'_>,
    ) -> Result<(), Loss> {
        if self.requests.contains_key(&id) {
            let place = "with the number of one that is not finished";
            return Err(Loss::Unexpected { message: "a request", place });
        }
        let answers = Answers::to(&body);
        if self.requests.len() >= REQUESTS {
            return self.send(id, too_many(answers.is_exec()));
        }
        let guest_id = link.connection.next_id();
        link.connection.send_now(guest_id, body).map_err(|_| Loss::GuestGone)?;
        link.relayed.insert(guest_id, (token, id));
        let (input, stdout, stderr) = Default::default();
        self.requests.insert(id, Relayed { id: guest_id, answers, input, stdout, stderr });
        Ok(())
    }

    /// Forwards the guest's answer to one of the client's requests.
    pub(crate) fn pass(&mut self, id: RequestId, body: GuestBody<'_>) -> Result<(), Fault> {
        let Some(request) = self.requests.get_mut(&id) else {
            return Ok(());
        };
        request.check(&body).map_err(Fault::Guest)?;
        if let GuestBody::Data(_, []) = body {
            return Ok(());
        }
        if body.is_final() {
            self.requests.remove(&id);
        }
        self.send(id, body).map_err(Fault::Client)
    }

    fn send(&mut self, id: RequestId, body: GuestBody<'_>) -> Result<(), Loss> {
        let is_first = self.buffer.is_empty();
        self.buffer.push(&GuestMessage { id, body })?;
        if is_first {
            self.flush()?;
        }
        let backlog = self.buffer.len();
        if backlog > BACKLOG { Err(Loss::Deaf { backlog }) } else { Ok(()) }
    }

    /// Sends the first bytes of a buffer that was empty.
    fn flush(&mut self) -> Result<(), Loss> {
        let failed = |source| Loss::Socket { source };
        self.buffer.flush(&self.socket).map_err(failed)?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.registration.writable(&*self.socket).map_err(failed)
    }

    /// Goes on sending.
    pub(crate) fn drain(&mut self) -> Result<(), Loss> {
        let failed = |source| Loss::Socket { source };
        self.buffer.flush(&self.socket).map_err(failed)?;
        if !self.buffer.is_empty() {
            return Ok(());
        }
        self.registration.readable(&*self.socket).map_err(failed)
    }
}

impl Relayed {
    /// Whether the guest may answer this.
    fn check(&mut self, body: &GuestBody<'_>) -> Result<(), Loss> {
        self.answers.accept(body)?;
        match body {
            GuestBody::Data(stream, bytes) => spend(self.output(*stream), bytes.len() as u64)?,
            GuestBody::Entry(entry) => spend(&mut self.stdout, entry.cost())?,
            GuestBody::Credit(count) => self.input.granted(*count)?,
            _ => {}
        }
        Ok(())
    }

    fn output(&mut self, stream: Stream) -> &mut SendWindow {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Subtracts a message's bytes from its stream's credit.
fn spend(window: &mut SendWindow, count: u64) -> vsock_proto::Result<()> {
    let allowed = window.available();
    if count > allowed {
        return Err(vsock_proto::Error::Overrun { sent: count, allowed });
    }
    window.sent(count);
    Ok(())
}

/// The answer to a request over the limit.
fn too_many(is_exec: bool) -> GuestBody<'static> {
    let errno = nix::errno::Errno::EAGAIN as i32;
    let message = format!("cannot relay more than {REQUESTS} requests at a time");
    if !is_exec {
        return GuestBody::Failed(Failure { errno, message });
    }
    GuestBody::Exit(Exit {
        outcome: Outcome::FailedToStart { is_missing: false, message },
        stdout: StreamTotal::default(),
        stderr: StreamTotal::default(),
        duration_us: 0,
        oom_kills: 0,
    })
}
