//! One request and its reply: HTTP over the platform's Unix socket.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::sync::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result, folder};

/// The timeout of each read and write; longer than any long poll.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of a reply's head, and of a reply that is kept in memory.
const LARGEST_HEAD: u64 = 16 * 1024;
const LARGEST: u64 = 256 << 20;

/// The body of a request.
pub(super) enum Payload<'a> {
    Empty,
    Bytes(Vec<u8>),
    /// A file from its current position, and the number of bytes.
    File(&'a File, u64),
}

impl Payload<'_> {
    pub(super) fn json(value: &impl Serialize) -> Result<Self> {
        Self::to_json(value).map(Self::Bytes)
    }

    pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(value);
        bytes.map_err(|error| Error::BadReply { reason: error.to_string() })
    }

    fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }
}

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    state: Mutex<CallsState>,
}

#[derive(Debug, Default)]
struct CallsState {
    is_cut: bool,
    open: Vec<Weak<UnixStream>>,
}

impl Calls {
    /// Shuts down the requests under way, and rejects later ones.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        for stream in state.open.drain(..).filter_map(|stream| stream.upgrade()) {
            // `shutdown` fails on a socket that is not connected any more.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn add(&self, stream: &Arc<UnixStream>) -> Result<()> {
        let mut state = self.lock();
        if state.is_cut {
            return Err(Error::Cut);
        }
        state.open.retain(|stream| stream.strong_count() > 0);
        state.open.push(Arc::downgrade(stream));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, CallsState> {
        self.state.lock()
    }
}

/// Sends a request, and reads the head of the reply.
pub(super) fn ask(
    (socket, calls): (&Path, &Calls),
    method: &str,
    path: &str,
    payload: Payload<'_>,
) -> Result<Reply> {
    let stream = folder::at_socket(socket, |name| UnixStream::connect(name));
    let stream = stream.map_err(|source| Error::NotServed { path: socket.to_owned(), source })?;
    let fail = |source| Error::Exchange { operation: "send a request to", source };
    stream.set_read_timeout(Some(IDLE_TIMEOUT)).map_err(fail)?;
    stream.set_write_timeout(Some(IDLE_TIMEOUT)).map_err(fail)?;
    let stream = Arc::new(stream);
    calls.add(&stream)?;
    let sent = send(&stream, method, path, payload);
    // A server may reject a request before it has all of it: its reply has the reason.
    match (Reply::read(Wire(stream)), sent) {
        (Ok(reply), _) => reply.check(),
        _ if calls.lock().is_cut => Err(Error::Cut),
        (Err(_), Err(source)) => Err(fail(source)),
        (Err(error), Ok(())) => Err(error),
    }
}

/// A connection that another thread can shut down.
struct Wire(Arc<UnixStream>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

fn send(mut to: &UnixStream, method: &str, path: &str, payload: Payload<'_>) -> io::Result<()> {
    let length = payload.length();
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: platform\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    match payload {
        Payload::Empty => to.write_all(&bytes),
        Payload::Bytes(content) => {
            bytes.extend_from_slice(&content);
            to.write_all(&bytes)
        }
        Payload::File(file, length) => {
            to.write_all(&bytes)?;
            io::copy(&mut file.take(length), &mut to).map(drop)
        }
    }
}

/// A reply whose body is not read yet.
pub(super) struct Reply {
    status: u16,
    location: Option<String>,
    length: u64,
    rest: BufReader<Wire>,
}

impl Reply {
    fn read(stream: Wire) -> Result<Self> {
        let mut rest = BufReader::new(stream);
        let mut head = Vec::new();
        let mut limited = (&mut rest).take(LARGEST_HEAD);
        while !head.ends_with(b"\r\n\r\n") {
            let count = limited.read_until(b'\n', &mut head);
            let count =
                count.map_err(|source| Error::Exchange { operation: "read a reply of", source })?;
            if count == 0 {
                return Err(malformed("it ends early"));
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(malformed)?;
        let status = parsed.code.ok_or_else(|| malformed("it has no status"))?;
        let named =
            |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
        let length = parsed.headers.iter().find(named);
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
        let length = length.ok_or_else(|| malformed("it has no length"))?;
        let location =
            parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("location"));
        let location =
            location.and_then(|header| Some(std::str::from_utf8(header.value).ok()?.to_owned()));
        Ok(Self { status, location, length, rest })
    }

    /// Turns a status of failure into an error.
    fn check(self) -> Result<Self> {
        if (200..300).contains(&self.status) || self.location().is_some() {
            return Ok(self);
        }
        let status = self.status;
        let body: Value = self.json()?;
        let text = |name| body["error"][name].as_str().unwrap_or_default().to_owned();
        Err(Error::Answered { status, code: text("code"), message: text("message") })
    }

    /// Where the content is, if it is not here.
    pub(super) fn location(&self) -> Option<&str> {
        self.location.as_deref().filter(|_| self.status == 307)
    }

    pub(super) fn json<T: DeserializeOwned>(self) -> Result<T> {
        if self.length > LARGEST {
            return Err(malformed("it is too long"));
        }
        let mut bytes = Vec::new();
        self.copy(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(malformed)
    }

    /// Reads and ignores the body.
    pub(super) fn finish(self) -> Result<()> {
        self.copy(&mut io::sink()).map(drop)
    }

    /// Copies all of the body.
    pub(super) fn copy(self, to: &mut dyn Write) -> Result<u64> {
        let copied = io::copy(&mut self.rest.take(self.length), to);
        match copied.map_err(|source| Error::Exchange { operation: "read a reply of", source })? {
            count if count == self.length => Ok(count),
            _ => Err(malformed("it ends early")),
        }
    }
}

fn malformed(reason: impl ToString) -> Error {
    Error::BadReply { reason: reason.to_string() }
}
