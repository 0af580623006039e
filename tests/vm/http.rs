//! A small HTTP server: one request a connection, a thread for each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, scope};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use serde_json::Value;

/// Says nothing for so long: it is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that a request has.
const LIMIT: u64 = 64 << 20;

#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in small letters.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// As it came, but that nothing follows on the connection.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.path);
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "connection") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    pub(crate) fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

/// Serves until it is dropped.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start<F>(listener: TcpListener, answer: F) -> Self
    where
        F: Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = Arc::new(listener);
        let accepting = Arc::clone(&listener);
        let serve = move || serve(&accepting, &answer);
        let thread = Builder::new().name("model".into()).spawn(serve).unwrap();
        Self { listener, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the wait for a connection.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve<F>(listener: &TcpListener, answer: &F)
where
    F: Fn(&Request, &mut TcpStream) -> io::Result<()> + Sync,
{
    scope(|scope| {
        while let Ok((mut stream, _)) = listener.accept() {
            let serve = move || {
                // Clients open connections that they do not use, and go away in the middle.
                if let Ok(request) = read(&stream) {
                    let _ = answer(&request, &mut stream);
                }
            };
            Builder::new().name("model-request".into()).spawn_scoped(scope, serve).unwrap();
        }
    });
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut reader = BufReader::new(stream.take(LIMIT));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut request = Request { method, path, headers: Vec::new(), body: Vec::new() };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    request.body.resize(usize::min(length.unwrap_or(0), LIMIT as usize), 0);
    reader.read_exact(&mut request.body)?;
    Ok(request)
}

/// Answers with JSON.
pub(crate) fn respond(stream: &mut TcpStream, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())
}

/// Begins an answer of events, which ends where the connection does.
pub(crate) fn begin_events(stream: &mut TcpStream) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n";
    stream.write_all(format!("{head}cache-control: no-cache\r\n\r\n").as_bytes())
}
