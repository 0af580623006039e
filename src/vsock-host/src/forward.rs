//! Host connections that are forwarded to a port in a guest.
//!
//! ```text
//!   Connect ─▶ Connected: bytes go both ways, within their credit ─▶ Done: all is sent, close
//!      └─ Failed: reset                      └─ Failed, or the guest is lost: reset
//! ```
//!
//! The reactor reads a local socket only while the guest may be sent more, and keeps at most a
//! window of what the socket does not take yet.

use std::any::Any;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::Token;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use vsock_proto::{
    CHUNK, Connect, GuestBody, HostBody, ReceiveWindow, RequestId, SendWindow, Stream,
};

use crate::Loss;
use crate::answers::Answers;
use crate::connection::Connection;
use crate::engine::Engine;
use crate::error::Refusal;
use crate::intake::READS;
use crate::outbox::HIGH_WATER;
use crate::registration::Registration;

/// A request to forward a local socket to a port of a guest.
pub(crate) struct ForwardRequest {
    pub(crate) to: Destination,
    pub(crate) port: u16,
    pub(crate) socket: OwnedFd,
    /// Called once, when the connection is open or has failed.
    pub(crate) opened: Opened,
    /// Dropped when the connection ends.
    pub(crate) kept: Box<dyn Any + Send>,
}

/// The guest that a connection is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Destination {
    Guest(Token),
    /// The guest that is connected to this listener.
    Listener(Token),
}

pub(crate) type Opened = Box<dyn FnOnce(Result<(), Failed>) + Send>;

/// The reason that a connection did not open.
#[derive(Debug)]
pub(crate) enum Failed {
    Refused(Refusal),
    Lost(Arc<Loss>),
}

impl std::fmt::Debug for ForwardRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardRequest").field("to", &self.to).field("port", &self.port).finish()
    }
}

/// A forwarded connection.
pub(crate) struct Forward {
    socket: OwnedFd,
    registration: Registration,
    guest: Token,
    id: RequestId,
    answers: Answers,
    opened: Option<Opened>,
    /// The credit for sending to the guest.
    input: SendWindow,
    input_ended: bool,
    output: ReceiveWindow,
    /// From the guest; how much of it the socket has taken.
    pending: Vec<u8>,
    taken: usize,
    output_ended: bool,
    is_done: bool,
    _kept: Box<dyn Any + Send>,
}

impl Engine {
    /// Begins to forward a connection.
    pub(crate) fn forward(&mut self, request: ForwardRequest) {
        let ForwardRequest { to, port, socket, opened, kept } = request;
        let guest = match to {
            Destination::Guest(token) => Some(token),
            Destination::Listener(token) => {
                self.listeners.get(&token).and_then(|listening| listening.current())
            }
        };
        let token = self.remote.next_token();
        let registration = self.watch(token);
        let Some((guest, link)) =
            guest.and_then(|token| Some((token, self.guests.get_mut(&token)?)))
        else {
            break_off(&socket);
            return opened(Err(Failed::Lost(Arc::new(Loss::GuestGone))));
        };
        let id = link.connection.next_id();
        let body = HostBody::Connect(Connect { port });
        let answers = Answers::to(&body);
        if link.connection.send_now(id, body).is_err() {
            break_off(&socket);
            return opened(Err(Failed::Lost(Arc::new(Loss::GuestGone))));
        }
        link.forwards.insert(id, token);
        let forward = Forward {
            socket,
            registration,
            guest,
            id,
            answers,
            opened: Some(opened),
            input: SendWindow::default(),
            input_ended: false,
            output: ReceiveWindow::default(),
            pending: Vec::new(),
            taken: 0,
            output_ended: false,
            is_done: false,
            _kept: kept,
        };
        self.forwards.insert(token, forward);
    }

    /// Handles a guest's answer about a connection. An error is a protocol violation by the guest.
    pub(crate) fn pass_to_forward(
        &mut self,
        token: Token,
        connection: &Connection,
        body: GuestBody<'_>,
    ) -> Result<(), Loss> {
        let Some(mut forward) = self.forwards.remove(&token) else {
            return Ok(());
        };
        let passed = forward.hear(connection, body);
        match passed {
            Ok(Turn::Goes) => {
                self.forwards.insert(token, forward);
                // There may be credit for what the socket has, or the socket may be new.
                self.unfinished.insert(token);
            }
            Ok(Turn::Over) => self.end_forward(&forward),
            Ok(Turn::Broken) => self.break_forward(&forward, connection),
            Err(loss) => {
                break_off(&forward.socket);
                self.end_forward(&forward);
                return Err(loss);
            }
        }
        Ok(())
    }

    /// Forwards bytes from a local socket to the guest.
    pub(crate) fn read_forward(&mut self, token: Token) {
        let Some(mut forward) = self.forwards.remove(&token) else {
            return;
        };
        let Some(link) = self.guests.get(&forward.guest) else {
            return self.end_forward(&forward);
        };
        let connection = Arc::clone(&link.connection);
        match forward.read(&connection, &mut self.buffer) {
            Ok(true) => drop(self.unfinished.insert(token)),
            Ok(false) => {}
            Err(_) => return self.break_forward(&forward, &connection),
        }
        self.forwards.insert(token, forward);
    }

    /// Goes on writing to a local socket.
    pub(crate) fn write_forward(&mut self, token: Token) {
        let Some(mut forward) = self.forwards.remove(&token) else {
            return;
        };
        let Some(link) = self.guests.get(&forward.guest) else {
            return self.end_forward(&forward);
        };
        let connection = Arc::clone(&link.connection);
        match forward.flush(&connection) {
            Ok(()) if forward.is_over() => self.end_forward(&forward),
            Ok(()) => drop(self.forwards.insert(token, forward)),
            Err(_) => self.break_forward(&forward, &connection),
        }
    }

    /// Ends a connection whose local socket is broken.
    fn break_forward(&mut self, forward: &Forward, connection: &Connection) {
        break_off(&forward.socket);
        // One for each connection; if the guest is gone, then so is its end.
        let _ = connection.send_now(forward.id, HostBody::Cancel);
        self.end_forward(forward);
    }

    fn end_forward(&mut self, forward: &Forward) {
        forward.registration.forget(&forward.socket);
        if let Some(link) = self.guests.get_mut(&forward.guest) {
            link.forwards.remove(&forward.id);
        }
    }

    /// Resets all connections to a lost guest.
    pub(crate) fn end_forwards(&mut self, guest: Token, loss: &Arc<Loss>) {
        let of_guest = self.forwards.iter().filter(|(_, forward)| forward.guest == guest);
        let tokens: Vec<Token> = of_guest.map(|(token, _)| *token).collect();
        for token in tokens {
            let Some(mut forward) = self.forwards.remove(&token) else { continue };
            break_off(&forward.socket);
            forward.registration.forget(&forward.socket);
            if let Some(opened) = forward.opened.take() {
                opened(Err(Failed::Lost(Arc::clone(loss))));
            }
        }
    }
}

/// How a connection goes on.
enum Turn {
    Goes,
    /// All is sent.
    Over,
    /// The local socket broke.
    Broken,
}

impl Forward {
    /// Whether reading is paused because `guest` does not read.
    pub(crate) fn waits_for(&self, guest: Token) -> bool {
        self.guest == guest && !self.input_ended
    }

    fn hear(&mut self, connection: &Connection, body: GuestBody<'_>) -> Result<Turn, Loss> {
        self.answers.accept(&body)?;
        match body {
            GuestBody::Connected => {
                let is_set_up = set_nonblocking(&self.socket).is_ok()
                    && self.registration.register(&self.socket).is_ok();
                if let Some(opened) = self.opened.take() {
                    opened(Ok(()));
                }
                return Ok(if is_set_up { Turn::Goes } else { Turn::Broken });
            }
            GuestBody::Data(_, bytes) => {
                self.output.received(bytes.len() as u64)?;
                self.pending.extend_from_slice(bytes);
            }
            GuestBody::Credit(count) => self.input.granted(count)?,
            GuestBody::End => self.output_ended = true,
            GuestBody::Done => self.is_done = true,
            GuestBody::Failed(failure) => {
                break_off(&self.socket);
                if let Some(opened) = self.opened.take() {
                    opened(Err(Failed::Refused(failure.into())));
                }
                return Ok(Turn::Over);
            }
            // Never accepted above.
            _ => {}
        }
        match self.flush(connection) {
            Ok(()) if self.is_over() => Ok(Turn::Over),
            Ok(()) => Ok(Turn::Goes),
            Err(_) => Ok(Turn::Broken),
        }
    }

    fn is_over(&self) -> bool {
        self.is_done && self.pending.is_empty()
    }

    /// Writes what the socket takes, and gives its credit back.
    fn flush(&mut self, connection: &Connection) -> nix::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while let Some(rest) = self.pending.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match send(self.socket.as_raw_fd(), rest, flags) {
                Ok(count) => {
                    self.taken += count;
                    if let Some(grant) = self.output.consumed(count as u64) {
                        // At most a window's worth of them; if the guest is gone, this is, too.
                        let credit = HostBody::Credit(Stream::Stdout, grant);
                        let _ = connection.send_now(self.id, credit);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.pending.drain(..self.taken);
                    self.taken = 0;
                    return self.registration.writable(&self.socket).map_err(|_| Errno::EIO);
                }
                Err(errno) => return Err(errno),
            }
        }
        let was_pending = !self.pending.is_empty();
        (self.pending, self.taken) = (Vec::new(), 0);
        if std::mem::take(&mut self.output_ended) {
            shutdown(self.socket.as_raw_fd(), Shutdown::Write)?;
        }
        if was_pending {
            self.registration.readable(&self.socket).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    }

    /// Reads while the guest may be sent more; whether there may be more to read at once.
    fn read(&mut self, connection: &Connection, buffer: &mut [u8]) -> nix::Result<bool> {
        if self.opened.is_some() || self.input_ended {
            return Ok(false);
        }
        for _ in 0..READS {
            let credit = usize::try_from(self.input.available()).unwrap_or(usize::MAX);
            let room = credit.min(buffer.len()).min(CHUNK);
            if room == 0 || connection.outbox.backlog() > HIGH_WATER {
                return Ok(false);
            }
            // A guest that is gone ends this, too.
            match recv(self.socket.as_raw_fd(), &mut buffer[..room], MsgFlags::MSG_DONTWAIT) {
                Ok(0) => {
                    self.input_ended = true;
                    let _ = connection.send_now(self.id, HostBody::End);
                    return Ok(false);
                }
                Ok(count) => {
                    self.input.sent(count as u64);
                    let _ = connection.send_now(self.id, HostBody::Data(&buffer[..count]));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }
}

fn set_nonblocking(socket: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Makes closing a TCP connection send a reset. Unix sockets have no reset.
fn break_off(socket: &OwnedFd) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(errno) = setsockopt(socket, sockopt::Linger, &at_once) {
        log::debug!("a connection may linger; error={errno}");
    }
}
