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
use crate::call::{Connection, Failed, ForwardRequest, Opened, Route};
use crate::wire::answers::Answers;
use crate::wire::intake::READS;
use crate::wire::outbox::HIGH_WATER;
use crate::wire::registration::Registration;

/// A forwarded connection.
pub(crate) struct Forward {
    socket: OwnedFd,
    registration: Registration,
    guest: Arc<Connection>,
    id: RequestId,
    answers: Answers,
    opened: Option<Opened>,
    /// The credit for sending to the guest.
    input: SendWindow,
    input_ended: bool,
    output: ReceiveWindow,
    /// Bytes from the guest.
    pending: Vec<u8>,
    /// The number of bytes of `pending` that the socket has taken.
    taken: usize,
    output_ended: bool,
    is_done: bool,
    _kept: Box<dyn Any + Send>,
}

/// How a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It waits for the guest or for its socket.
    Wait,
    /// It needs another turn.
    Again,
    /// It has ended: all is sent, or it is reset.
    End,
}

impl Forward {
    /// Asks the guest to connect; `None` if the guest is lost, and the request has failed.
    pub(crate) fn start(
        request: ForwardRequest,
        guest: Arc<Connection>,
        registration: Registration,
    ) -> Option<Self> {
        let body = HostBody::Connect(Connect { port: request.port });
        let answers = Answers::to(&body);
        let Ok(id) = guest.start(Route::Forward(registration.token()), body) else {
            fail(request);
            return None;
        };
        let ForwardRequest { socket, opened, kept, .. } = request;
        Some(Self {
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
        })
    }

    /// The guest that it is forwarded to.
    pub(crate) fn guest(&self) -> Token {
        self.guest.token()
    }

    /// Whether reading may be paused because the guest does not read.
    pub(crate) fn is_paused(&self) -> bool {
        !self.input_ended
    }

    /// Forwards bytes from the local socket to the guest.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Step {
        self.read_socket(buffer).unwrap_or_else(|_| self.break_off())
    }

    /// Continues to write to the local socket.
    pub(crate) fn write(&mut self) -> Step {
        match self.flush() {
            Ok(()) if self.is_over() => Step::End,
            Ok(()) => Step::Wait,
            Err(_) => self.break_off(),
        }
    }

    /// Handles a guest's answer. An error is a protocol violation by the guest.
    pub(crate) fn handle_answer(&mut self, body: GuestBody<'_>) -> Result<Step, Loss> {
        self.answers.accept(&body)?;
        match body {
            GuestBody::Connected => {
                let is_set_up = set_nonblocking(&self.socket).is_ok()
                    && self.registration.register(&self.socket).is_ok();
                if let Some(opened) = self.opened.take() {
                    opened(Ok(()));
                }
                return Ok(if is_set_up { Step::Again } else { self.break_off() });
            }
            GuestBody::Data(_, bytes) => {
                self.output.received(bytes.len() as u64)?;
                self.pending.extend_from_slice(bytes);
            }
            GuestBody::Credit(count) => self.input.granted(count)?,
            GuestBody::End => self.output_ended = true,
            GuestBody::Done => self.is_done = true,
            GuestBody::Failed(failure) => {
                reset_on_close(&self.socket);
                if let Some(opened) = self.opened.take() {
                    opened(Err(Failed::Refused(failure.into())));
                }
                return Ok(Step::End);
            }
            // Never accepted above.
            _ => {}
        }
        Ok(match self.write() {
            // There may be credit for what the socket has.
            Step::Wait => Step::Again,
            step => step,
        })
    }

    /// Closes the connection after its end.
    pub(crate) fn close(&self) {
        self.registration.forget(&self.socket);
        self.guest.remove_route(self.id);
    }

    /// Resets the connection to a lost guest.
    pub(crate) fn reset(mut self, loss: &Arc<Loss>) {
        reset_on_close(&self.socket);
        self.registration.forget(&self.socket);
        if let Some(opened) = self.opened.take() {
            opened(Err(Failed::Lost(Arc::clone(loss))));
        }
    }

    /// Ends a connection whose local socket is broken.
    fn break_off(&self) -> Step {
        reset_on_close(&self.socket);
        self.guest.cancel(self.id);
        Step::End
    }

    fn is_over(&self) -> bool {
        self.is_done && self.pending.is_empty()
    }

    /// Writes what the socket takes, and gives its credit back.
    fn flush(&mut self) -> nix::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while let Some(rest) = self.pending.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match send(self.socket.as_raw_fd(), rest, flags) {
                Ok(count) => {
                    self.taken += count;
                    if let Some(grant) = self.output.consumed(count as u64) {
                        // At most a window's worth of them; if the guest is gone, this is, too.
                        let credit = HostBody::Credit(Stream::Stdout, grant);
                        let _ = self.guest.send_now(self.id, credit);
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

    /// Reads while the guest may be sent more.
    fn read_socket(&mut self, buffer: &mut [u8]) -> nix::Result<Step> {
        if self.opened.is_some() || self.input_ended {
            return Ok(Step::Wait);
        }
        for _ in 0..READS {
            let credit = usize::try_from(self.input.available()).unwrap_or(usize::MAX);
            let room = credit.min(buffer.len()).min(CHUNK);
            if room == 0 || self.guest.outbox.backlog() > HIGH_WATER {
                return Ok(Step::Wait);
            }
            // A guest that is gone ends this, too.
            match recv(self.socket.as_raw_fd(), &mut buffer[..room], MsgFlags::MSG_DONTWAIT) {
                Ok(0) => {
                    self.input_ended = true;
                    let _ = self.guest.send_now(self.id, HostBody::End);
                    return Ok(Step::Wait);
                }
                Ok(count) => {
                    self.input.sent(count as u64);
                    let _ = self.guest.send_now(self.id, HostBody::Data(&buffer[..count]));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Step::Wait),
                Err(errno) => return Err(errno),
            }
        }
        Ok(Step::Again)
    }
}

fn set_nonblocking(socket: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Makes closing a TCP connection send a reset. Unix sockets have no reset.
fn reset_on_close(socket: &OwnedFd) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(errno) = setsockopt(socket, sockopt::Linger, &at_once) {
        log::debug!("a connection may linger; error={errno}");
    }
}

/// Resets a connection whose guest is gone before it began.
pub(crate) fn fail(request: ForwardRequest) {
    reset_on_close(&request.socket);
    (request.opened)(Err(Failed::Lost(Arc::new(Loss::GuestGone))));
}
