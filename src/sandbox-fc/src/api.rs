//! Firecracker's API: HTTP/1.1 over a Unix socket, one connection for all calls.
//!
//! Each call blocks until its reply or its deadline. Firecracker handles requests sequentially, so there is
//! only one call at a time.
//!
//! | file | what |
//! |---|---|
//! | this one | the connection |
//! | `request.rs` | the requests |
//! | `reply.rs` | an HTTP response, bounded |

mod reply;
mod request;

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use microvm::time_left;
use serde::de::DeserializeOwned;

pub use request::{
    Action, BackendType, Balloon, BalloonSize, BalloonStatistics, BootSource, CacheType, Drive,
    Entropy, InstanceInfo, MachineConfig, MemoryBackend, NetworkInterface, RateLimiter, Request,
    SnapshotCreate, SnapshotLoad, SnapshotType, TokenBucket, VmState, Vsock,
};

use self::reply::{Parsed, Reply};
use crate::{Error, Result};

/// The longest reply. Usual ones have some hundred bytes.
const MAX_REPLY: usize = 64 << 10;
/// The longest fault message.
const MAX_FAULT: usize = 1024;

/// A connection to Firecracker's API.
///
/// INVARIANT: after a call without a complete reply it is broken: a late reply would be taken for that of
/// another call.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    is_broken: bool,
    /// Received bytes that are not parsed yet.
    received: Vec<u8>,
}

impl Client {
    /// Connects; Firecracker must listen already.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| Error::Connect { socket: socket.to_owned(), source })?;
        Ok(Self { stream, is_broken: false, received: Vec::new() })
    }

    /// Sends a request, and waits for its reply.
    pub fn send<R: Request>(&mut self, request: &R, deadline: Instant) -> Result<()> {
        let name = format!("{} {}", R::METHOD, request.path());
        let body = serde_json::to_vec(request)
            .map_err(|error| Error::Garbled { request: name.clone(), reason: error.to_string() })?;
        self.call(&name, &body, deadline).map(drop)
    }

    /// Firecracker's own description.
    pub fn instance_info(&mut self, deadline: Instant) -> Result<InstanceInfo> {
        self.get("GET /", deadline)
    }

    /// The statistics of the VM's balloon.
    pub fn balloon(&mut self, deadline: Instant) -> Result<BalloonStatistics> {
        self.get("GET /balloon/statistics", deadline)
    }

    fn get<T: DeserializeOwned>(&mut self, name: &str, deadline: Instant) -> Result<T> {
        let reply = self.call(name, &[], deadline)?;
        serde_json::from_slice(&reply.body)
            .map_err(|error| Error::Garbled { request: name.into(), reason: error.to_string() })
    }

    fn call(&mut self, name: &str, body: &[u8], deadline: Instant) -> Result<Reply> {
        let request = || name.to_owned();
        if std::mem::replace(&mut self.is_broken, true) {
            return Err(Error::Broken { request: request() });
        }
        let begun = Instant::now();
        let failed = |error: io::Error, wrap: fn(String, io::Error) -> Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::TimedOut { request: request(), after: begun.elapsed() }
            }
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                Error::Closed { request: request() }
            }
            _ => wrap(request(), error),
        };
        self.write(name, body, deadline)
            .map_err(|error| failed(error, |request, source| Error::Send { request, source }))?;
        loop {
            match reply::parse(&self.received, MAX_REPLY) {
                Parsed::Complete(reply, length) => {
                    self.received.drain(..length);
                    self.is_broken = false;
                    return check_status(name, reply);
                }
                Parsed::Malformed(reason) => {
                    return Err(Error::Garbled { request: request(), reason });
                }
                Parsed::TooLong => {
                    return Err(Error::TooLong { request: request(), limit: MAX_REPLY });
                }
                Parsed::Incomplete => {}
            }
            let count = self.read(deadline).map_err(|error| {
                failed(error, |request, source| Error::Receive { request, source })
            })?;
            if count == 0 {
                return Err(Error::Closed { request: request() });
            }
        }
    }

    /// Writes a request, which fits into the socket's buffer.
    fn write(&mut self, name: &str, body: &[u8], deadline: Instant) -> io::Result<()> {
        let mut bytes = format!("{name} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
        if !body.is_empty() {
            let length = body.len();
            let head = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
            bytes.extend_from_slice(head.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.stream.set_write_timeout(Some(time_left(deadline)?))?;
        self.stream.write_all(&bytes)
    }

    fn read(&mut self, deadline: Instant) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        loop {
            self.stream.set_read_timeout(Some(time_left(deadline)?))?;
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => {
                    let count = other?;
                    self.received.extend(buffer.iter().take(count));
                    return Ok(count);
                }
            }
        }
    }
}

fn check_status(name: &str, reply: Reply) -> Result<Reply> {
    match reply.status {
        200..=299 => Ok(reply),
        status => {
            let fault = fault(&reply.body);
            Err(Error::Refused { request: name.to_owned(), status, fault })
        }
    }
}

/// The `fault_message` of a reply, or its body; without control characters.
fn fault(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json.get("fault_message")?.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_FAULT).map(clean).collect::<String>().trim().to_owned()
}
