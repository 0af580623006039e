//! The API over HTTP, against scripted sandboxes: which request goes where, and the ports of sandboxes.

mod hostile;
mod interrupted;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use files_proto::PROGRAM;
use http_server::{Endpoint, Limits as ServerLimits, Server};
use sandbox::fake::Script;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::fake::FakeLauncher;
use crate::key::NewKey;
use crate::sandboxes::{Caller, CreateRequest, ManagedSandbox};
use crate::testing::registry;

/// A server with one sandbox, in which guest-files has a home on this host.
pub(crate) struct Lab {
    address: SocketAddr,
    key: String,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) launcher: Arc<FakeLauncher>,
    pub(crate) sandbox: Arc<ManagedSandbox>,
    pub(crate) home: TempDir,
    caller: Caller,
    _server: Server,
    _folder: TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Everything until the end of the connection, as a reply.
    pub(crate) fn of(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.contains("Transfer-Encoding: chunked");
        let body = bytes.split_off(end + 4);
        let body = if is_chunked { Chunks(&body[..]).all() } else { body };
        Self { status, head, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Lab {
    pub(crate) fn new(script: Script) -> Self {
        Self::with(script, CreateRequest::new("base"))
    }

    pub(crate) fn with(script: Script, request: CreateRequest) -> Self {
        let home = tempfile::tempdir().unwrap();
        let text = home.path().to_str().unwrap().to_owned();
        let script = script.answer(PROGRAM, move |_, request| {
            let mut input: File = tempfile::tempfile().unwrap();
            input.write_all(request).unwrap();
            input.rewind().unwrap();
            let mut output = Vec::new();
            let success = guest_files::run(input, &text, &mut output).unwrap();
            (output, u8::from(!success))
        });
        Self::serve(script, request, home)
    }

    /// One in which guest-files does what the script says.
    pub(crate) fn of(script: Script) -> Self {
        Self::serve(script, CreateRequest::new("base"), tempfile::tempdir().unwrap())
    }

    fn serve(script: Script, request: CreateRequest, home: TempDir) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::new(folder.path()));
        let (_, key) = keys.create(NewKey::default()).unwrap();
        let caller = keys.check(&key).unwrap().unwrap().caller();
        let (sandboxes, launcher, clock) = registry(script);
        let domain = Some("boxes.example:8443".to_owned());
        let api = Api::new(Arc::clone(&sandboxes), keys, domain, clock);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let endpoints = vec![Endpoint::Tcp(listener)];
        let server =
            Server::start("test", endpoints, Arc::new(api), ServerLimits::default()).unwrap();
        let sandbox = sandboxes.create(&caller, request).unwrap();
        let (_server, _folder) = (server, folder);
        Self { address, key, sandboxes, launcher, sandbox, home, caller, _server, _folder }
    }

    /// The headers of a call on the sandbox.
    pub(crate) fn headers(&self) -> String {
        let (id, token) = (self.sandbox.id(), self.sandbox.envd_token());
        format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 49983\r\nX-Access-Token: {token}\r\n")
    }

    /// Sends a request whose connection is to be closed after the reply.
    pub(crate) fn open(&self, line: &str, headers: &str, body: &[u8]) -> TcpStream {
        let length = body.len();
        self.begin(line, &format!("Content-Length: {length}\r\n{headers}"), body)
    }

    /// The same without a Content-Length: the headers say where the body ends.
    fn begin(&self, line: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let host = if headers.contains("Host: ") { "" } else { "Host: localhost\r\n" };
        let head = format!("{line} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
        // A server that refuses the head reads no more of it.
        let _ = stream.write_all(head.as_bytes());
        // A server that refuses the head does not read the body.
        let _ = stream.write_all(body);
        stream
    }

    pub(crate) fn send(&self, line: &str, headers: &str, body: &[u8]) -> Reply {
        Reply::of(self.open(line, headers, body))
    }

    /// A call on the sandbox.
    pub(crate) fn call(&self, line: &str, headers: &str, body: &[u8]) -> Reply {
        self.send(line, &(self.headers() + headers), body)
    }

    pub(crate) fn kill(&self) {
        self.sandboxes.kill(&self.caller, self.sandbox.id()).unwrap();
    }

    pub(crate) fn pause(&self) {
        self.sandboxes.pause(&self.caller, self.sandbox.id()).unwrap();
    }

    /// The sandbox's end of the next connection to a port.
    fn accept(&self) -> (u16, BufReader<UnixStream>) {
        let (port, stream) = self.launcher.factory.record().connections.remove(0);
        (port, BufReader::new(stream))
    }
}

struct Chunks<'a>(&'a [u8]);

impl Chunks<'_> {
    fn all(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            all.extend_from_slice(&self.0[..size]);
            self.0 = &self.0[size + 2..];
            if size == 0 {
                return all;
            }
        }
    }
}

/// The lines of a head that the sandbox got.
fn head(stream: &mut BufReader<UnixStream>) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return lines;
        }
        lines.push(line);
    }
}

fn wait_for_connection(lab: &Lab) -> (u16, BufReader<UnixStream>) {
    while lab.launcher.factory.record().connections.is_empty() {
        std::thread::yield_now();
    }
    lab.accept()
}

#[test]
fn requests_without_a_sandbox_are_for_the_rest_api() {
    let lab = Lab::new(Script::default());
    assert_eq!(lab.send("GET /health", "", b"").status, 204);
    let listed = lab.send("GET /v2/sandboxes", &format!("X-API-Key: {}\r\n", lab.key), b"");
    assert_eq!((listed.status, listed.json().as_array().unwrap().len()), (200, 1));
    assert_eq!(lab.send("GET /v2/sandboxes", "", b"").status, 401);
    assert_eq!(lab.send("POST /process.Process/List", "", b"{}").status, 400);
}

#[test]
fn a_sandbox_that_does_not_run_answers_502_and_says_so() {
    let lab = Lab::new(Script::default());
    assert_eq!(lab.call("GET /health", "", b"").status, 204);
    let unknown = lab.send("GET /health", "E2b-Sandbox-Id: abc\r\n", b"");
    let expected = json!({"sandboxId": "abc", "message": "The sandbox was not found", "code": 502});
    assert_eq!((unknown.status, unknown.json()), (502, expected));
    lab.pause();
    assert_eq!(lab.call("GET /health", "", b"").status, 502);
    assert_eq!(lab.call("POST /process.Process/List", "", b"{}").status, 502);
    lab.kill();
    assert_eq!(lab.call("GET /files?path=a", "", b"").status, 502);
}

#[test]
fn hosts_and_headers_that_disagree_are_refused() {
    let lab = Lab::new(Script::default().listen(80));
    let id = lab.sandbox.id();
    let status = |headers: &str| lab.send("GET /", headers, b"").status;
    assert_eq!(status(&format!("Host: 80-{id}.boxes.example\r\nE2b-Sandbox-Id: other\r\n")), 400);
    assert_eq!(status(&format!("Host: 80-{id}.boxes.example\r\nHost: a\r\n")), 400);
    assert_eq!(status(&format!("Host: 80-{id}/@boxes.example\r\n")), 400);
    assert_eq!(status("E2b-Sandbox-Id: a\r\nE2b-Sandbox-Id: b\r\n"), 400);
    assert_eq!(status("E2b-Sandbox-Id: ../a\r\n"), 400);
    assert_eq!(status("E2b-Sandbox-Port: 80\r\n"), 400);
    assert_eq!(status(&format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: +80\r\n")), 400);
    // A host of another domain names no sandbox.
    assert_eq!(status(&format!("Host: 80-{id}.other.example\r\n")), 401);
    assert!(lab.launcher.factory.record().connections.is_empty());
}

#[test]
fn a_request_to_a_port_reaches_the_sandbox_with_its_body_and_one_reply_comes_back() {
    let lab = Lab::new(Script::default().listen(8080));
    let id = lab.sandbox.id();
    let headers = format!(
        "Host: 8080-{id}.boxes.example:8443\r\nX-Drop: 1\r\nKeep-Alive: 5\r\nCookie: a=b\r\n\
         E2b-Traffic-Access-Token: t\r\nTe: trailers\r\n"
    );
    let mut client = lab.open("PUT /a?b=c", &headers, b"body");
    let (port, mut guest) = wait_for_connection(&lab);
    assert_eq!(port, 8080);
    let host = format!("Host: 8080-{id}.boxes.example:8443");
    let expected = [
        "PUT /a?b=c HTTP/1.1",
        &host,
        "Content-Length: 4",
        "X-Drop: 1",
        "Cookie: a=b",
        "Connection: close",
    ];
    assert_eq!(head(&mut guest), expected);
    let mut body = [0; 4];
    guest.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"body");
    guest.get_ref().write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").unwrap();
    drop(guest);
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok");
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways_until_the_client_goes() {
    let lab = Lab::new(Script::default().listen(9000));
    let id = lab.sandbox.id();
    let mut client = TcpStream::connect(lab.address).unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 9000\r\n\
         Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
    );
    client.write_all(request.as_bytes()).unwrap();
    let (_, mut guest) = wait_for_connection(&lab);
    let lines = head(&mut guest);
    assert_eq!(lines[2..], ["Connection: Upgrade", "Upgrade: websocket"]);
    let mut early = [0; 5];
    guest.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    for _ in 0..3 {
        guest.get_ref().write_all(b"from the sandbox").unwrap();
        let mut bytes = [0; 16];
        client.read_exact(&mut bytes).unwrap();
        client.write_all(b"from the client").unwrap();
        let mut bytes = [0; 15];
        guest.read_exact(&mut bytes).unwrap();
    }
    client.shutdown(Shutdown::Both).unwrap();
    assert_eq!(guest.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn much_data_passes_a_port_in_both_directions_at_once() {
    let lab = Lab::new(Script::default().listen(9000));
    let id = lab.sandbox.id();
    let headers = format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 9000\r\n");
    let body = vec![7; 3_000_000];
    std::thread::scope(|scope| {
        let reply = scope.spawn(|| lab.send("POST /", &headers, &body));
        let (_, mut guest) = wait_for_connection(&lab);
        head(&mut guest);
        let mut writer = guest.get_ref().try_clone().unwrap();
        let write = scope.spawn(move || {
            writer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            writer.write_all(&vec![8; 3_000_000]).unwrap();
        });
        let mut got = vec![0; 3_000_000];
        guest.read_exact(&mut got).unwrap();
        write.join().unwrap();
        drop(guest);
        assert!(got == body);
        assert!(reply.join().unwrap().body == vec![8; 3_000_000]);
    });
}

#[test]
fn a_closed_port_says_so_to_programs_and_to_people() {
    let lab = Lab::new(Script::default());
    let id = lab.sandbox.id();
    let headers = format!("Host: 3000-{id}.boxes.example\r\n");
    let reply = lab.send("GET /", &headers, b"");
    let message = "The sandbox is running but port is not open";
    let expected = json!({"sandboxId": id, "message": message, "port": 3000, "code": 502});
    assert_eq!((reply.status, reply.json()), (502, expected));
    let page = lab.send("GET /", &(headers + "Accept: text/html,*/*\r\n"), b"");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("nothing listens on port <b>3000</b>"), "{}", page.text());
    lab.kill();
    let gone = lab.send("GET /", &format!("Host: 3000-{id}.boxes.example\r\n"), b"");
    assert_eq!(
        (gone.status, gone.json()["message"].clone()),
        (502, json!("The sandbox was not found"))
    );
}

#[test]
fn ports_that_are_not_public_need_the_traffic_token_and_the_guest_does_not_see_it() {
    let request = CreateRequest {
        allow_public_traffic: false,
        mask_request_host: Some("localhost:${PORT}".into()),
        ..CreateRequest::new("base")
    };
    let lab = Lab::with(Script::default().listen(80), request);
    let (id, token) = (lab.sandbox.id(), lab.sandbox.traffic_token().unwrap());
    let headers = format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 80\r\n");
    assert_eq!(lab.send("GET /", &headers, b"").status, 403);
    let wrong = format!("{headers}E2b-Traffic-Access-Token: {token}x\r\n");
    assert_eq!(lab.send("GET /", &wrong, b"").status, 403);
    let right = format!("{headers}E2b-Traffic-Access-Token: {token}\r\n");
    let _client = lab.open("GET /", &right, b"");
    let (_, mut guest) = wait_for_connection(&lab);
    let lines = head(&mut guest);
    assert_eq!(lines[1], "Host: localhost:80");
    assert!(!lines.iter().any(|line| line.contains(token)));
}

#[test]
fn connections_to_ports_end_with_the_sandbox() {
    let lab = Lab::new(Script::default().listen(80));
    let id = lab.sandbox.id();
    let headers = format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 80\r\n");
    let mut client = lab.open("GET /", &headers, b"");
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (_, _guest) = wait_for_connection(&lab);
    lab.kill();
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
}
