//! A client of a relay, served as if it were connected to the guest itself.
//!
//! ```text
//!   client                reactor                              guest
//!     ◀─ Hello, Ready ──    greets with the guest's boot id
//!     ── request 1 ─────▶   1 becomes 17, if there is room   ─▶
//!     ◀─ answer to 1 ────   17 becomes 1                     ◀─
//!     ── Credit ────────▶   checked, passed on               ─▶
//!     gone                  Cancel for each of its requests  ─▶
//! ```
//!
//! Flow control is from end to end: the client's credit lets the guest send, the guest's credit
//! lets the client send, and the relay only checks that both keep to it.
//!
//! INVARIANT: a client that does not read buffers at most its requests' windows and
//! [`BACKLOG`], and delays no other peer. A client is not read while its
//! guest does not read.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use vsock_proto::{
    Decoder, Exit, Failure, GuestBody, GuestMessage, Hello, HostBody, HostMessage, Outcome,
    RequestId, SendWindow, Stream, StreamTotal, VERSION,
};

use super::draining::Draining;
use super::schedule::Schedule;
use crate::Loss;
use crate::call::{Connection, Route};
use crate::wire::answers::Answers;
use crate::wire::intake::{READS, SpareDecoder, Turn, receive};
use crate::wire::outbox::{Buffer, HIGH_WATER};
use crate::wire::registration::Registration;

/// The time-out of a client's answer to the hello.
const LIMIT: Duration = Duration::from_secs(10);

/// How many requests a client may have under way.
const REQUESTS: usize = 16;

/// The reactor ends a client with more unread bytes than this. Either it reads the output of none
/// of its requests, or a guest sends it many small messages.
const BACKLOG: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Client {
    socket: Arc<UnixStream>,
    registration: Registration,
    decoder: Decoder,
    buffer: Buffer,
    /// The guest that serves it.
    guest: Arc<Connection>,
    /// The deadline of its answer to the hello; `None` after the answer.
    hello_deadline: Option<Instant>,
    is_paused: bool,
    requests: BTreeMap<RequestId, Relayed>,
}

/// One of its requests.
#[derive(Debug)]
struct Relayed {
    /// Its id at the guest.
    id: RequestId,
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
    /// Sends the hello on behalf of the guest.
    pub(crate) fn start(
        socket: UnixStream,
        registration: Registration,
        guest: Arc<Connection>,
        schedule: &mut Schedule,
    ) -> Result<Self, Loss> {
        let deadline = Instant::now() + LIMIT;
        let mut client = Self {
            socket: Arc::new(socket),
            registration,
            decoder: Decoder::new(),
            buffer: Buffer::default(),
            guest,
            hello_deadline: Some(deadline),
            is_paused: false,
            requests: BTreeMap::new(),
        };
        client.greet()?;
        schedule.set_timer(deadline, client.token());
        Ok(client)
    }

    fn greet(&mut self) -> Result<(), Loss> {
        let failed = |source| Loss::Socket { source };
        self.socket.set_nonblocking(true).map_err(failed)?;
        self.registration.register(&*self.socket).map_err(failed)?;
        let boot_id = self.guest.identity.boot_id;
        let hello = Hello { version: VERSION, boot_id, previous_failure: None, secret: None };
        self.buffer.push_hello(&hello)?;
        self.flush()
    }

    /// The guest that serves it.
    pub(crate) fn guest(&self) -> Token {
        self.guest.token()
    }

    /// Whether the reactor does not read it until its guest, or the client itself, has read more.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Forwards the client's messages to the guest.
    pub(crate) fn read(
        &mut self,
        spare: &mut SpareDecoder,
        schedule: &mut Schedule,
    ) -> Result<Turn, Loss> {
        let hello_deadline = self.hello_deadline;
        let mut decoder = spare.borrow(&mut self.decoder);
        let turn = self.read_messages(&mut decoder);
        spare.give_back(decoder, &mut self.decoder);
        if let (Some(deadline), None) = (hello_deadline, self.hello_deadline) {
            schedule.cancel_timer(deadline, self.token());
        }
        turn
    }

    fn read_messages(&mut self, decoder: &mut Decoder) -> Result<Turn, Loss> {
        for _ in 0..READS {
            while let Some(message) = decoder.next()? {
                self.handle_message(message)?;
            }
            let backlog = self.guest.outbox.backlog().max(self.buffer.len());
            self.is_paused = backlog > HIGH_WATER;
            if self.is_paused || !receive(&self.socket, decoder)? {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    fn handle_message(&mut self, message: HostMessage<'_>) -> Result<(), Loss> {
        let HostMessage { id, body } = message;
        if self.hello_deadline.is_some() {
            return self.handle_welcome(&body);
        }
        if body.is_request() {
            return self.start_request(id, body);
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
        self.guest.send_now(request.id, body).map_err(|_| Loss::GuestGone)
    }

    /// Takes the client's answer to the hello.
    fn handle_welcome(&mut self, answer: &HostBody<'_>) -> Result<(), Loss> {
        match answer {
            HostBody::Welcome(_) => {
                self.hello_deadline = None;
                let ready = self.guest.identity.ready.clone();
                self.send(RequestId::LINK, GuestBody::Ready(ready))
            }
            HostBody::Reject(_) => Err(Loss::Closed),
            _ => Err(Loss::Unexpected { message: "a request", place: "before the greeting" }),
        }
    }

    fn start_request(&mut self, id: RequestId, body: HostBody<'_>) -> Result<(), Loss> {
        if self.requests.contains_key(&id) {
            let place = "with the number of one that is not finished";
            return Err(Loss::Unexpected { message: "a request", place });
        }
        let answers = Answers::to(&body);
        if self.requests.len() >= REQUESTS {
            return self.send(id, too_many(answers.is_exec()));
        }
        let route = Route::Client(self.token(), id);
        let guest_id = self.guest.start(route, body).map_err(|_| Loss::GuestGone)?;
        let (input, stdout, stderr) = Default::default();
        self.requests.insert(id, Relayed { id: guest_id, answers, input, stdout, stderr });
        Ok(())
    }

    /// Forwards the guest's answer to one of the client's requests.
    pub(crate) fn relay_answer(&mut self, id: RequestId, body: GuestBody<'_>) -> Result<(), Fault> {
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

    /// Continues to send; returns whether the client may be read again.
    pub(crate) fn write(&mut self) -> Result<Turn, Loss> {
        let failed = |source| Loss::Socket { source };
        self.buffer.flush(&self.socket).map_err(failed)?;
        if self.buffer.is_empty() {
            self.registration.readable(&*self.socket).map_err(failed)?;
        }
        let is_resumable = self.is_paused && self.buffer.len() <= HIGH_WATER;
        Ok(if is_resumable { Turn::More } else { Turn::Done })
    }

    /// Cancels the client's requests, and sends it the unsent bytes.
    pub(crate) fn end(self, loss: &Loss, schedule: &mut Schedule) -> Option<Draining> {
        log::debug!("a client's connection ends; reason={loss}");
        if let Some(deadline) = self.hello_deadline {
            schedule.cancel_timer(deadline, self.token());
        }
        for request in self.requests.values() {
            self.guest.cancel(request.id);
        }
        Draining::start(self.socket, self.registration, self.buffer, schedule)
    }

    fn token(&self) -> Token {
        self.registration.token()
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
