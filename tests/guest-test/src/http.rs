//! A minimal HTTP/1.1 server side: reads a request, writes a reply, with faults.

use std::io::{self, BufRead, Write};

use serde_json::Value;

/// A received request.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON. `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The path without the query.
    pub fn target(&self) -> &str {
        self.path.split('?').next().unwrap()
    }

    /// Reads the next request of a connection. `None` at its end.
    pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Request { method, path, headers, body: Vec::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok());
        request.body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut request.body)?;
        Ok(Some(request))
    }
}

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    ending: Ending,
}

/// How a reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The whole reply is sent.
    Whole,
    /// The connection is closed before any byte.
    Dropped,
    /// The connection stays open without a byte until the server ends.
    Mute,
    /// The connection is closed after this many bytes of the body.
    CutAfter(usize),
    /// After this many bytes of the body the connection stays open without another until the server ends.
    SilentAfter(usize),
}

impl Reply {
    /// A status and no body.
    pub fn status(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), ending: Ending::Whole }
    }

    /// Success with this body.
    pub fn bytes(body: impl Into<Vec<u8>>) -> Reply {
        Reply { body: body.into(), ..Reply::status(200) }
    }

    /// Success with this value.
    pub fn json(value: &Value) -> Reply {
        Reply::bytes(value.to_string()).with("content-type", "application/json")
    }

    /// An error in the platform's format.
    pub fn refusal(status: u16, message: &str) -> Reply {
        let body = serde_json::json!({ "error": { "message": message } });
        Reply { status, ..Reply::json(&body) }
    }

    /// No reply: the connection is closed.
    pub fn dropped() -> Reply {
        Reply::status(200).ending(Ending::Dropped)
    }

    /// No reply: the connection stays open.
    pub fn mute() -> Reply {
        Reply::status(200).ending(Ending::Mute)
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }

    /// Sets the ending.
    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Reply {
        self.ending = ending;
        self
    }

    /// Writes the reply. Returns false if the connection must be closed. `hold` blocks until the server
    /// ends.
    pub(crate) fn write(&self, stream: &mut impl Write, hold: impl FnOnce()) -> io::Result<bool> {
        match self.ending {
            Ending::Dropped => return Ok(false),
            Ending::Mute => {
                hold();
                return Ok(false);
            }
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        let sent = match self.ending {
            Ending::CutAfter(count) | Ending::SilentAfter(count) => count.min(self.body.len()),
            _ => self.body.len(),
        };
        stream.write_all(&[head.as_bytes(), &self.body[..sent.min(64 << 10)]].concat())?;
        stream.write_all(&self.body[sent.min(64 << 10)..sent])?;
        stream.flush()?;
        if matches!(self.ending, Ending::SilentAfter(_)) {
            hold();
        }
        Ok(self.ending == Ending::Whole)
    }
}
