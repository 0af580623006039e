//! A Firecracker as its API shows it: takes requests, answers by a script.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

/// What it answers to one request.
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// This status and body.
    Json(u16, String),
    /// These bytes, then the connection's end.
    Raw(String),
    /// Nothing, until the client goes.
    Silence,
    /// This, then a byte again and again, until the client goes.
    Trickle(String),
    /// The connection's end.
    HangUp,
}

pub(crate) struct Fake {
    socket: PathBuf,
    _folder: TempDir,
    thread: JoinHandle<Vec<String>>,
}

impl Fake {
    /// Serves one connection.
    pub(crate) fn start(answers: impl Into<VecDeque<Answer>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut answers = answers.into();
        let serve = move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut heard = Vec::new();
            while let Some(request) = read(&mut reader) {
                heard.push(request);
                if !answer(reader.get_mut(), answers.pop_front().unwrap()) {
                    break;
                }
            }
            heard
        };
        let thread = Builder::new().name("fake".into()).spawn(serve).unwrap();
        Self { socket, _folder: folder, thread }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What was asked: method, path and body.
    pub(crate) fn finish(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

/// One request; none at the connection's end.
fn read(reader: &mut BufReader<UnixStream>) -> Option<String> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line if first.is_empty() => first = line.strip_suffix(" HTTP/1.1").unwrap().to_owned(),
            line => {
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.parse().unwrap();
                }
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Some(format!("{first} {}", String::from_utf8(body).unwrap()).trim_end().to_owned())
}

/// `false` at the connection's end.
fn answer(stream: &mut UnixStream, answer: Answer) -> bool {
    let head = "Server: Firecracker API\r\nConnection: keep-alive\r\n";
    match answer {
        Answer::Done => stream.write_all(format!("HTTP/1.1 204 \r\n{head}\r\n").as_bytes()).is_ok(),
        Answer::Json(status, json) => {
            let length = json.len();
            let text = format!(
                "HTTP/1.1 {status} \r\n{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
            );
            stream.write_all(text.as_bytes()).is_ok()
        }
        Answer::Raw(bytes) => {
            let _ = stream.write_all(bytes.as_bytes());
            false
        }
        Answer::Silence => stream.read(&mut [0]).is_ok_and(|count| count > 0),
        Answer::Trickle(first) => {
            let mut sent = stream.write_all(first.as_bytes());
            stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            while sent.is_ok() {
                // Nothing comes: it only takes its time.
                let _ = stream.read(&mut [0]);
                sent = stream.write_all(b".");
            }
            false
        }
        Answer::HangUp => false,
    }
}
