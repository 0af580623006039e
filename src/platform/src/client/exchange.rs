//! One request and its reply: HTTP/1.1 over a connection that ends with the reply.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::connection::{Calls, Connection};
use crate::{Error, Result};

/// The most bytes of a reply's head, and of a reply that is kept in memory.
const LARGEST_HEAD: u64 = 16 * 1024;
const LARGEST: u64 = 256 << 20;

/// The body of a request.
pub(super) enum Payload<'a> {
    Empty,
    Bytes(Vec<u8>),
    /// Of a request that has the same effect if it is sent twice.
    Repeatable(Vec<u8>),
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

    /// As [`Payload::json`], of a request that has the same effect if it is sent twice.
    pub(super) fn repeatable(value: &impl Serialize) -> Result<Self> {
        Self::to_json(value).map(Self::Repeatable)
    }

    fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) | Self::Repeatable(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }
}

/// One request. Its headers each end in CRLF.
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) headers: &'a str,
}

/// Sends a request, and reads the head of the reply.
pub(super) fn exchange(
    mut connection: Connection,
    calls: &Calls,
    call: &Call<'_>,
    payload: &Payload<'_>,
) -> Result<Reply> {
    let sent = send(&mut connection, call, payload);
    // A server may reject a request before it has all of it: its reply has the reason.
    match (Reply::read(connection), sent) {
        (Ok(reply), _) => reply.check(),
        _ if calls.is_cut() => Err(Error::Cut),
        (Err(_), Err(source)) => Err(Error::Exchange { operation: "send a request to", source }),
        (Err(error), Ok(())) => Err(error),
    }
}

fn send(to: &mut Connection, call: &Call<'_>, payload: &Payload<'_>) -> io::Result<()> {
    let length = payload.length();
    let Call { method, host, path, headers } = call;
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    match payload {
        Payload::Empty => to.write_all(&bytes)?,
        Payload::Bytes(content) | Payload::Repeatable(content) => {
            bytes.extend_from_slice(content);
            to.write_all(&bytes)?;
        }
        Payload::File(file, length) => {
            to.write_all(&bytes)?;
            io::copy(&mut file.take(*length), to)?;
        }
    }
    to.flush()
}

/// A reply whose body is not read yet.
pub(super) struct Reply {
    status: u16,
    location: Option<String>,
    length: u64,
    rest: BufReader<Connection>,
}

impl Reply {
    fn read(stream: Connection) -> Result<Self> {
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
