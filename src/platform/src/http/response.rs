//! What is answered.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use base::error::chain;
use serde::Serialize;
use serde_json::json;

use super::wire::Wire;
use crate::blob::CHUNK;
use crate::{Error, Refusal};

/// The timeout for writing one piece of a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What comes after the head.
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// So many bytes of a file from an offset on.
    File {
        file: File,
        offset: u64,
        length: u64,
    },
}

/// A reply.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) content: Content,
}

impl Response {
    /// 200 and a value as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => Self::bytes(200, bytes),
            Err(source) => Self::error(&Error::BadRow { source }),
        }
    }

    /// 200 and nothing.
    pub(crate) fn empty() -> Self {
        Self { status: 200, headers: Vec::new(), content: Content::Bytes(Vec::new()) }
    }

    /// What a failed request is answered. Only what is wrong with the request itself is told; what
    /// is wrong here is logged.
    pub(crate) fn error(error: &Error) -> Self {
        let (status, code, message) = match error {
            Error::Refused(refusal) => (refusal.status(), refusal.code(), refusal.to_string()),
            Error::Full { .. } => (507, "NO_ROOM", "no room left on the disk".to_owned()),
            Error::Stopped => (503, "STOPPED", "the platform is stopping".to_owned()),
            _ => (500, "INTERNAL", "the platform failed: see its log".to_owned()),
        };
        match error {
            Error::Refused(_) | Error::Stopped => log::debug!("refused; code={code}"),
            _ => log::error!("a request failed; error={}", chain(error)),
        }
        let body = json!({"error": {"message": message, "code": code}});
        let mut response = Self::bytes(status, body.to_string().into_bytes());
        if status == 503 {
            response.headers.push(("Retry-After", "1".to_owned()));
        }
        response
    }

    fn bytes(status: u16, bytes: Vec<u8>) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self { status, headers, content: Content::Bytes(bytes) }
    }

    /// Writes it; the client is told whether it may ask again on this connection.
    pub(super) fn send(self, wire: &Wire, keeps_alive: bool) -> io::Result<()> {
        let length = match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File { length, .. } => *length,
        };
        let connection = if keeps_alive { "keep-alive" } else { "close" };
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n",
            self.status,
            reason(self.status)
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        match self.content {
            Content::Bytes(content) => {
                bytes.extend_from_slice(&content);
                bytes.chunks(CHUNK).try_for_each(|piece| send(wire, piece))
            }
            Content::File { file, offset, length } => {
                send(wire, &bytes)?;
                send_file(wire, file, offset, length)
            }
        }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        Self::error(&refusal.into())
    }
}

fn send_file(wire: &Wire, mut file: File, offset: u64, length: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut rest = file.take(length);
    let mut buffer = vec![0; CHUNK];
    while rest.limit() > 0 {
        let count = rest.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(piece) if count > 0 => send(wire, piece)?,
            // The file is shorter than it was; the client sees a reply that is cut short.
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(())
}

fn send(wire: &Wire, bytes: &[u8]) -> io::Result<()> {
    wire.socket().write_all(bytes, Instant::now() + WRITE_TIMEOUT)
}

/// The words for a status.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        424 => "Failed Dependency",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}
