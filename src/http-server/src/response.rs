//! A reply: how handlers make it, and how it is written.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use base::date::{http_date, since_epoch};
use base::event::Event;
use serde::Serialize;
use serde_json::json;

use crate::refusal::Refusal;
use crate::socket::Socket;
use crate::upgrade::Upgraded;
use crate::writer::BodyWriter;

/// The size of one write.
pub(crate) const CHUNK: usize = 128 * 1024;

/// The timeout for writing one piece of a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What comes after the head.
pub enum Content {
    /// All of the body.
    Bytes(Vec<u8>),
    /// A body whose length is known, such as a file. If the reader ends earlier, the connection is closed.
    Reader {
        /// How many bytes are read.
        length: u64,
        /// Where they are read from.
        reader: Box<dyn Read + Send>,
    },
    /// A body that the function writes, on the connection's thread.
    Stream(Box<Stream>),
    /// The function owns the connection and writes the reply's head itself. Status and headers of the
    /// response are not used.
    Upgrade(Box<dyn FnOnce(Upgraded) + Send>),
}

/// Writes a body. An error closes the connection, so that the client sees that the body is not complete.
pub type Stream = dyn FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send;

/// A reply.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers beside Date and those of the framing (Content-Length, Transfer-Encoding, Connection).
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub content: Content,
}

impl Response {
    /// A reply without headers and body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), content: Content::Bytes(Vec::new()) }
    }

    /// A reply with a body of the type `content_type`.
    #[must_use]
    pub fn bytes(status: u16, content_type: &str, bytes: Vec<u8>) -> Self {
        let content = Content::Bytes(bytes);
        Self { content, ..Self::new(status) }.with("Content-Type", content_type)
    }

    /// A reply with a value as JSON.
    pub fn json(status: u16, value: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self::bytes(status, "application/json", serde_json::to_vec(value)?))
    }

    /// A reply with status 200 whose body `write` writes.
    pub fn stream(
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self { content: Content::Stream(Box::new(write)), ..Self::new(200) }
    }

    /// A reply that `own` gives, with the connection.
    pub fn upgrade(own: impl FnOnce(Upgraded) + Send + 'static) -> Self {
        Self { content: Content::Upgrade(Box::new(own)), ..Self::new(101) }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Writes the reply.
    pub(crate) fn send(self, socket: &Socket, framing: &Framing<'_>) -> io::Result<()> {
        let mut bytes = self.head(framing).into_bytes();
        let has_body = framing.has_body && may_have_body(self.status);
        match self.content {
            Content::Bytes(content) if has_body => {
                bytes.extend_from_slice(&content);
                bytes.chunks(CHUNK).try_for_each(|piece| write_piece(socket, piece))
            }
            Content::Reader { length, reader } if has_body => {
                write_piece(socket, &bytes)?;
                copy(socket, reader, length)
            }
            Content::Stream(write) if has_body => {
                write_piece(socket, &bytes)?;
                drop(bytes);
                let mut writer = BodyWriter::new(socket, framing.is_chunked, framing.stop);
                write(&mut writer)?;
                writer.end()
            }
            _ => write_piece(socket, &bytes),
        }
    }

    fn head(&self, framing: &Framing<'_>) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        if self.status >= 200 {
            head.push_str(&format!("Date: {}\r\n", http_date(since_epoch())));
        }
        let length = match &self.content {
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::Reader { length, .. } => Some(*length),
            Content::Stream(_) | Content::Upgrade(_) => None,
        };
        match length {
            _ if !may_have_body(self.status) => {}
            Some(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
            None if framing.is_chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            // The body ends with the connection.
            None => {}
        }
        let connection = if framing.keeps_alive { "keep-alive" } else { "close" };
        head.push_str(&format!("Connection: {connection}\r\n"));
        for (name, value) in &self.headers {
            if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                log::error!("a header is left out: its value has control characters; name={name}");
                continue;
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.content, Content::Stream(_))
    }
}

/// How a reply is framed, by the request and the state of the server.
pub(crate) struct Framing<'a> {
    /// False for a reply to HEAD.
    pub(crate) has_body: bool,
    /// Streams are chunked; otherwise they end with the connection.
    pub(crate) is_chunked: bool,
    /// The client may send another request.
    pub(crate) keeps_alive: bool,
    /// Set when the server stops.
    pub(crate) stop: Option<&'a Event>,
}

impl Framing<'_> {
    /// That of a reply after which the connection ends.
    pub(crate) const LAST: Self =
        Self { has_body: true, is_chunked: false, keeps_alive: false, stop: None };
}

impl From<&Refusal> for Response {
    fn from(refusal: &Refusal) -> Self {
        let error = json!({"message": refusal.to_string(), "code": refusal.code()});
        let body = json!({"error": error}).to_string().into_bytes();
        let response = Self::bytes(refusal.status(), "application/json", body);
        if refusal.status() == 503 { response.with("Retry-After", "1") } else { response }
    }
}

/// Copies `length` bytes to the socket.
fn copy(socket: &Socket, reader: impl Read, length: u64) -> io::Result<()> {
    let mut rest = reader.take(length);
    let mut buffer = vec![0; CHUNK];
    while rest.limit() > 0 {
        let count = rest.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(piece) if count > 0 => write_piece(socket, piece)?,
            // A file is shorter than it was; the client sees a reply that is cut short.
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(())
}

/// Writes at most [`CHUNK`] bytes.
pub(crate) fn write_piece(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    socket.write_all_until(bytes, Instant::now() + WRITE_TIMEOUT)
}

fn may_have_body(status: u16) -> bool {
    !matches!(status, 100..200 | 204 | 304)
}

/// The words for a status.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        424 => "Failed Dependency",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        // RFC 9112 allows no words.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(response: &Response) -> String {
        response.head(&Framing::LAST)
    }

    #[test]
    fn a_header_with_a_line_break_is_left_out() {
        let response = Response::new(200).with("X-Name", "a\r\nSet-Cookie: b").with("X-Other", "c");

        let head = head(&response);

        assert!(!head.contains("Set-Cookie"));
        assert!(head.contains("X-Other: c\r\n"));
    }

    #[test]
    fn a_reply_that_has_no_body_has_no_length() {
        assert!(!head(&Response::new(204)).contains("Content-Length"));
        assert!(head(&Response::new(200)).contains("Content-Length: 0\r\n"));
    }
}
