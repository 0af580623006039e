//! A connection in Ably's protocol: receives and sends frames, and detects a dead server.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::Frame as WebSocketFrame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error as WebSocketError, Message, WebSocket};

use crate::config::Config;
use crate::error::ConnectionError;
use crate::frame::Frame;
use crate::pipe::Pipe;
use crate::random;
use crate::secret::Secret;
use crate::wait::Interest;

/// The initial read buffer; a larger frame makes it grow.
const READ_BUFFER: usize = 8 << 10;

/// How many bytes are read before other work gets its turn. A frame may be larger.
const MAX_READ: usize = 64 << 10;

/// How long a connection can be resumed, unless the server says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(120);

/// The longest time that is accepted from a server, in milliseconds: a year.
const MAX_TIME_MS: u64 = 365 * 24 * 3600 * 1000;

pub(crate) struct Link {
    socket: WebSocket<Pipe>,
    max_frame_size: usize,
    grace: Duration,
    /// When the last frame came.
    seen: Instant,
    max_idle: Option<Duration>,
    key: Option<Secret>,
    ttl: Duration,
}

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Received {
    /// A binary frame.
    Frame(Bytes),
    /// Another WebSocket message, such as a ping.
    Control,
    /// Part of a message; the rest may be readable already.
    Incomplete,
    /// Nothing to read.
    Empty,
}

/// What is needed to resume a lost connection.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) key: Secret,
    pub(crate) until: Instant,
}

impl Link {
    /// A connection right after the WebSocket upgrade; `rest` was read beyond the upgrade's response.
    pub(crate) fn new(pipe: Pipe, rest: Vec<u8>, config: &Config) -> Self {
        let limits = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(config.max_frame_size))
            .max_frame_size(Some(config.max_frame_size));
        Self {
            socket: WebSocket::from_partially_read(pipe, rest, Role::Client, Some(limits)),
            max_frame_size: config.max_frame_size,
            grace: config.timing.grace,
            seen: Instant::now(),
            max_idle: None,
            key: None,
            ttl: DEFAULT_TTL,
        }
    }

    /// Applies the parameters of CONNECTED.
    pub(crate) fn accept(&mut self, frame: &Frame<'_>) {
        let time = |ms: u64| Duration::from_millis(ms.min(MAX_TIME_MS));
        let details = &frame.details;
        if let Some(key) = details.connection_key.or(frame.connection_key) {
            self.key = Some(Secret::new(key.to_owned()));
        }
        self.ttl = details.state_ttl.map_or(self.ttl, time);
        self.max_idle = details.max_idle.filter(|&ms| ms > 0).map(time);
    }

    /// Makes all further calls non-blocking.
    pub(crate) fn set_nonblocking(&mut self) {
        self.socket.get_mut().socket_mut().set_nonblocking();
    }

    pub(crate) fn receive(&mut self) -> Result<Received, ConnectionError> {
        self.socket.get_mut().socket_mut().allow(MAX_READ);
        let received = match self.socket.read() {
            Ok(Message::Binary(bytes)) => Received::Frame(bytes),
            // Nothing follows a close frame.
            Ok(Message::Close(_)) => return Err(ConnectionError::HungUp),
            Ok(_) => Received::Control,
            Err(WebSocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let is_exhausted = self.socket.get_ref().socket().is_exhausted();
                return Ok(if is_exhausted { Received::Incomplete } else { Received::Empty });
            }
            Err(WebSocketError::Io(source)) => return Err(ConnectionError::Socket { source }),
            Err(WebSocketError::Capacity(_)) => {
                return Err(ConnectionError::TooLarge { most: self.max_frame_size });
            }
            Err(WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed) => {
                return Err(ConnectionError::HungUp);
            }
            Err(source) => return Err(ConnectionError::WebSocket { source }),
        };
        self.seen = Instant::now();
        Ok(received)
    }

    /// Sends a frame. Bytes that the socket does not accept now are buffered.
    ///
    /// Not by tungstenite's `send`, which logs its payload: that may be a token.
    pub(crate) fn send(&mut self, payload: Vec<u8>) -> Result<(), ConnectionError> {
        let mut frame = WebSocketFrame::message(payload, OpCode::Data(Data::Binary), true);
        frame.header_mut().mask = Some(random::bytes());
        let mut bytes = Vec::new();
        frame.format(&mut bytes).map_err(|source| ConnectionError::WebSocket { source })?;
        let failed = |source| ConnectionError::Socket { source };
        self.socket.get_mut().write_all(&bytes).map_err(failed)?;
        self.flush()
    }

    /// Sends buffered bytes.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionError> {
        match self.socket.get_mut().flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            done => done.map_err(|source| ConnectionError::Socket { source }),
        }
    }

    /// Sends CLOSE and closes the connection, without waiting.
    pub(crate) fn close(mut self) {
        // The connection is closed anyway.
        let _ = self.send(crate::frame::close());
        self.socket.get_mut().end();
    }

    /// An error if the server was silent for too long.
    pub(crate) fn check(&self, now: Instant) -> Result<(), ConnectionError> {
        match self.deadline() {
            Some(deadline) if now >= deadline => {
                Err(ConnectionError::Silent { after: now - self.seen })
            }
            _ => Ok(()),
        }
    }

    /// When to [`check`](Self::check).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.max_idle.map(|max_idle| self.seen + max_idle + self.grace)
    }

    /// How to resume it after a loss, if the server sent a key.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let key = self.key.clone()?;
        Some(Resume { key, until: self.seen + self.ttl })
    }

    /// What to poll for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, Interest) {
        let pipe = self.socket.get_ref();
        (pipe.socket().as_fd(), if pipe.wants_write() { Interest::Both } else { Interest::Read })
    }
}
