//! A connection that speaks Ably's protocol: frames in and out, and whether the server is alive.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::Frame as WebSocketFrame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error as WebSocketError, Message, WebSocket};

use crate::config::Config;
use crate::error::Loss;
use crate::frame::Frame;
use crate::pipe::Pipe;
use crate::random;
use crate::secret::Secret;
use crate::wait::Interest;

/// What is read at once; a larger frame makes it grow.
const READ_BUFFER: usize = 8 << 10;

/// So much is read before anything else gets its turn. A frame may be larger.
const MOST_AT_ONCE: usize = 64 << 10;

/// How long a connection can be resumed if the server does not say so.
const USUAL_TTL: Duration = Duration::from_secs(120);

/// The longest time that a server is believed: a year.
const LONGEST: u64 = 365 * 24 * 3600 * 1000;

pub(crate) struct Link {
    socket: WebSocket<Pipe>,
    largest_frame: usize,
    grace: Duration,
    /// When the last frame came.
    seen: Instant,
    max_idle: Option<Duration>,
    key: Option<Secret>,
    ttl: Duration,
}

/// What there was to read.
#[derive(Debug)]
pub(crate) enum Received {
    /// A binary frame.
    Frame(Bytes),
    /// A sign of life.
    Noise,
    /// Something that is not whole yet, but more of it may be there.
    Part,
    Nothing,
}

/// What it takes to go on with a connection that was lost.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) key: Secret,
    pub(crate) until: Instant,
}

impl Link {
    /// A connection that has just become a WebSocket; `rest` was read too far.
    pub(crate) fn new(pipe: Pipe, rest: Vec<u8>, config: &Config) -> Self {
        let limits = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(config.largest_frame))
            .max_frame_size(Some(config.largest_frame));
        Self {
            socket: WebSocket::from_partially_read(pipe, rest, Role::Client, Some(limits)),
            largest_frame: config.largest_frame,
            grace: config.timing.grace,
            seen: Instant::now(),
            max_idle: None,
            key: None,
            ttl: USUAL_TTL,
        }
    }

    /// Takes what CONNECTED says.
    pub(crate) fn accept(&mut self, frame: &Frame<'_>) {
        let time = |ms: u64| Duration::from_millis(ms.min(LONGEST));
        let details = &frame.details;
        if let Some(key) = details.connection_key.or(frame.connection_key) {
            self.key = Some(Secret::new(key.to_owned()));
        }
        self.ttl = details.state_ttl.map_or(self.ttl, time);
        self.max_idle = details.max_idle.filter(|&ms| ms > 0).map(time);
    }

    /// From now on no call waits.
    pub(crate) fn lose_patience(&mut self) {
        self.socket.get_mut().socket_mut().lose_patience();
    }

    pub(crate) fn receive(&mut self) -> Result<Received, Loss> {
        self.socket.get_mut().socket_mut().allow(MOST_AT_ONCE);
        let received = match self.socket.read() {
            Ok(Message::Binary(bytes)) => Received::Frame(bytes),
            // Nothing more comes, whenever it really closes.
            Ok(Message::Close(_)) => return Err(Loss::HungUp),
            Ok(_) => Received::Noise,
            Err(WebSocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let is_used_up = self.socket.get_ref().socket().is_used_up();
                return Ok(if is_used_up { Received::Part } else { Received::Nothing });
            }
            Err(WebSocketError::Io(source)) => return Err(Loss::Socket { source }),
            Err(WebSocketError::Capacity(_)) => {
                return Err(Loss::TooLarge { most: self.largest_frame });
            }
            Err(WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed) => {
                return Err(Loss::HungUp);
            }
            Err(source) => return Err(Loss::WebSocket { source }),
        };
        self.seen = Instant::now();
        Ok(received)
    }

    /// Sends a frame of Ably's. What the socket does not take now it takes later.
    ///
    /// It goes around tungstenite's `send`, which logs what is sent, as that may be a token.
    pub(crate) fn send(&mut self, payload: Vec<u8>) -> Result<(), Loss> {
        let mut frame = WebSocketFrame::message(payload, OpCode::Data(Data::Binary), true);
        frame.header_mut().mask = Some(random::bytes());
        let mut bytes = Vec::new();
        frame.format(&mut bytes).map_err(|source| Loss::WebSocket { source })?;
        let failed = |source| Loss::Socket { source };
        self.socket.get_mut().write_all(&bytes).map_err(failed)?;
        self.flush()
    }

    /// Sends what is left.
    pub(crate) fn flush(&mut self) -> Result<(), Loss> {
        match self.socket.get_mut().flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            done => done.map_err(|source| Loss::Socket { source }),
        }
    }

    /// Says goodbye, without waiting for anything.
    pub(crate) fn close(mut self) {
        // Who leaves is not held up by what cannot be said.
        let _ = self.send(crate::frame::close());
        self.socket.get_mut().end();
    }

    /// Whether nothing came for too long.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Loss> {
        match self.deadline() {
            Some(deadline) if now >= deadline => Err(Loss::Silent { after: now - self.seen }),
            _ => Ok(()),
        }
    }

    /// When to [`check`](Self::check).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.max_idle.map(|max_idle| self.seen + max_idle + self.grace)
    }

    /// How to go on after it was lost, if the server gave leave.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let key = self.key.clone()?;
        Some(Resume { key, until: self.seen + self.ttl })
    }

    /// What to sleep for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, Interest) {
        let pipe = self.socket.get_ref();
        (pipe.socket().as_fd(), if pipe.wants_write() { Interest::Both } else { Interest::Read })
    }
}
