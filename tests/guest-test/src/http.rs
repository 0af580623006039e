//! HTTP/1.1 as far as a test needs it: one request read, one reply written, faults included.

use std::io::{self, BufRead, Write};

use serde_json::Value;

/// What a server was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The path without the query.
    pub fn target(&self) -> &str {
        self.path.split('?').next().unwrap()
    }

    /// The next request of a connection; none at its end.
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

/// What a server answers.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    ending: Ending,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Whole,
    /// The connection is closed before anything is said.
    Dropped,
    /// Nothing is said, until the server ends.
    Mute,
    /// The connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after so many bytes of the body, until the server ends.
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

    /// A refusal with the platform's form of error.
    pub fn refusal(status: u16, message: &str) -> Reply {
        let body = serde_json::json!({ "error": { "message": message } });
        Reply { status, ..Reply::json(&body) }
    }

    /// No answer at all: the connection is closed.
    pub fn dropped() -> Reply {
        Reply::status(200).ending(Ending::Dropped)
    }

    /// No answer at all: the connection stays.
    pub fn mute() -> Reply {
        Reply::status(200).ending(Ending::Mute)
    }

    /// One more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another status.
    #[must_use]
    pub fn but_status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }

    /// Another ending.
    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Reply {
        self.ending = ending;
        self
    }

    /// Writes it; false if the connection is to be closed. `hold` returns when the server ends.
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
