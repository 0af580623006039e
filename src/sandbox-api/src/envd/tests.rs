//! Calls on commands and files over HTTP, against scripted sandboxes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use flate2::Compression;
use flate2::write::GzEncoder;
use sandbox::fake::{Manner, Script};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::tests::{Lab, Reply};

pub(crate) fn envelope(message: &Value) -> Vec<u8> {
    connect_rpc::message(message).unwrap()
}

/// A reply that is a stream.
pub(crate) struct Events {
    from: BufReader<TcpStream>,
    bytes: Vec<u8>,
}

impl Events {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let mut from = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(from.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("Content-Type: application/connect+json\r\n"), "{head}");
        let mut events = Self { from, bytes: Vec::new() };
        if !head.contains("chunked") {
            events.from.read_to_end(&mut events.bytes).unwrap();
        }
        events
    }

    /// The next message; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<(u8, Value)> {
        loop {
            if let Some((head, rest)) = self.bytes.split_at_checked(5) {
                let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
                if let Some((message, _)) = rest.split_at_checked(length) {
                    let next = (head[0], serde_json::from_slice(message).unwrap());
                    self.bytes.drain(..5 + length);
                    return Some(next);
                }
            }
            let mut line = String::new();
            let size = match self.from.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => usize::from_str_radix(line.trim(), 16).unwrap(),
            };
            let mut chunk = vec![0; size + 2];
            self.from.read_exact(&mut chunk).ok()?;
            self.bytes.extend_from_slice(&chunk[..size]);
        }
    }

    pub(crate) fn event(&mut self) -> Value {
        let (flags, mut message) = self.next().unwrap();
        assert_eq!(flags, 0, "{message}");
        message["event"].take()
    }

    /// The pid in the first event.
    pub(crate) fn pid(&mut self) -> u64 {
        self.event()["start"]["pid"].as_u64().unwrap()
    }

    pub(crate) fn end(&mut self) -> Value {
        let (flags, message) = self.next().unwrap();
        assert_eq!(flags, 2, "{message}");
        message
    }
}

impl Lab {
    pub(crate) fn stream(&self, method: &str, headers: &str, message: &Value) -> Events {
        let headers =
            format!("{}Content-Type: application/connect+json\r\n{headers}", self.headers());
        Events::new(self.open(&format!("POST {method}"), &headers, &envelope(message)))
    }

    pub(crate) fn start(&self, program: &str) -> Events {
        let message = json!({"process": {"cmd": program}, "stdin": false});
        self.stream("/process.Process/Start", "", &message)
    }

    pub(crate) fn unary(&self, method: &str, message: &Value) -> Reply {
        let headers = "Content-Type: application/json\r\n";
        self.call(&format!("POST {method}"), headers, message.to_string().as_bytes())
    }

    pub(crate) fn process(&self, method: &str, message: &Value) -> Reply {
        self.unary(&format!("/process.Process/{method}"), message)
    }

    pub(crate) fn filesystem(&self, method: &str, message: &Value) -> Reply {
        self.unary(&format!("/filesystem.Filesystem/{method}"), message)
    }
}

#[test]
fn a_command_reports_its_start_its_output_and_its_end() {
    let lab = Lab::new(Script::default().on("make", &["out\n"], 3));
    let message = json!({"process": {
        "cmd": "make", "args": ["-l", "x"], "envs": {"A": "1"}, "cwd": "src",
    }});
    let mut events = lab.stream("/process.Process/Start", "Connect-Timeout-Ms: 5000\r\n", &message);
    events.pid();
    let stdout = STANDARD.encode("out\n");
    assert_eq!(events.event(), json!({"data": {"stdout": stdout}}));
    let status = "exit status 3";
    let end = json!({"exitCode": 3, "exited": true, "status": status, "error": status});
    assert_eq!(events.event(), json!({"end": end}));
    assert_eq!(events.end(), json!({}));

    let record = lab.launcher.factory.record();
    let exec = record.execs.last().unwrap();
    assert_eq!(exec.argv, ["make", "-l", "x"]);
    assert_eq!(exec.cwd.as_ref().unwrap(), &lab.home.path().join("src"));
    assert_eq!(exec.timeout, Some(std::time::Duration::from_secs(5)));
    assert!(exec.stdin && exec.follow_descendants);
    for (name, value) in [("A", "1"), ("E2B_SANDBOX", "true"), ("E2B_SANDBOX_ID", lab.sandbox.id())]
    {
        assert!(exec.env.contains(&(name.into(), value.into())), "{name}");
    }
}

#[test]
fn a_stream_that_fails_says_so_in_its_last_message() {
    let lab = Lab::new(Script::default());
    assert_eq!(lab.start("missing").end()["error"]["code"], "invalid_argument");
    let message = json!({"process": {"pid": 9}});
    let error = json!({"code": "not_found", "message": "process with pid 9 not found"});
    let mut unknown = lab.stream("/process.Process/Connect", "", &message);
    assert_eq!(unknown.end(), json!({"error": error}));
    let signal = json!({"process": {"pid": 9}, "signal": "SIGNAL_SIGKILL"});
    let reply = lab.process("SendSignal", &signal);
    assert_eq!((reply.status, reply.json()), (404, error));
    assert_eq!(lab.process("Nothing", &json!({})).status, 501);
}

#[test]
fn a_command_stays_when_its_client_goes_and_is_found_and_killed() {
    let lab = Lab::new(Script::default().hold("sleep", Manner::Deaf));
    let message = json!({"process": {"cmd": "sleep"}, "tag": "t"});
    let mut events = lab.stream("/process.Process/Start", "", &message);
    let pid = events.pid();
    drop(events);
    let listed = lab.process("List", &json!({})).json();
    assert_eq!(
        (&listed["processes"][0]["pid"], &listed["processes"][0]["tag"]),
        (&json!(pid), &json!("t"))
    );

    let which = json!({"process": {"tag": "t"}});
    let mut first = lab.stream("/process.Process/Connect", "", &which);
    let mut second = lab.stream("/process.Process/Connect", "", &which);
    assert_eq!((first.pid(), second.pid()), (pid, pid));
    lab.launcher.factory.print(lab.launcher.vms.lock()[0], b"hi");
    for events in [&mut first, &mut second] {
        assert_eq!(events.event(), json!({"data": {"stdout": STANDARD.encode("hi")}}));
    }
    let signal = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(lab.process("SendSignal", &signal).status, 200);
    let status = "signal: killed";
    let end = json!({"end": {"exitCode": -1, "exited": false, "status": status, "error": status}});
    assert_eq!((first.event(), second.event()), (end.clone(), end.clone()));
    assert_eq!(lab.process("List", &json!({})).json(), json!({"processes": []}));
    // For a while its end is told to those who come too late.
    let mut late = lab.stream("/process.Process/Connect", "", &which);
    assert_eq!((late.pid(), late.event(), late.end()), (pid, end, json!({})));
}

#[test]
fn a_silent_command_sends_keepalives() {
    let lab = Lab::new(Script::default().hold("sleep", Manner::Polite));
    let message = json!({"process": {"cmd": "sleep"}});
    let mut events =
        lab.stream("/process.Process/Start", "Keepalive-Ping-Interval: 1\r\n", &message);
    events.pid();
    assert_eq!(events.event(), json!({"keepalive": {}}));
}

#[test]
fn a_client_that_reads_nothing_holds_neither_the_sandbox_nor_others_up() {
    let lab = Lab::new(Script::default().hold("yes", Manner::Deaf));
    let mut events = lab.start("yes");
    events.pid();
    for _ in 0..2000 {
        lab.launcher.factory.print(lab.launcher.vms.lock()[0], &[b'y'; 16 << 10]);
    }
    assert_eq!(lab.process("List", &json!({})).status, 200);
    lab.kill();
    while let Some((flags, _)) = events.next() {
        assert_eq!(flags, 0);
    }
}

#[test]
fn streams_are_cut_when_the_sandbox_ends_or_is_paused() {
    let lab = Lab::new(Script::default().hold("sleep", Manner::Deaf));
    let mut events = lab.start("sleep");
    events.pid();
    lab.pause();
    assert_eq!(events.next(), None);

    let lab = Lab::new(Script::default().hold("sleep", Manner::Deaf));
    let mut events = lab.start("sleep");
    events.pid();
    lab.kill();
    assert_eq!(events.next(), None);
    assert_eq!(lab.call("GET /health", "", b"").status, 502);
}

#[test]
fn input_reaches_a_command_and_its_end_closes_it() {
    let script =
        Script::default().answer("cat", |_, input| (input.to_vec(), 0)).hold("sleep", Manner::Deaf);
    let lab = Lab::new(script);
    let message = json!({"process": {"cmd": "cat"}, "stdin": true});
    let mut events = lab.stream("/process.Process/Start", "", &message);
    let which = json!({"pid": events.pid()});
    for bytes in ["a", "b", ""] {
        let input = json!({"process": which, "input": {"stdin": STANDARD.encode(bytes)}});
        assert_eq!(lab.process("SendInput", &input).status, 200);
    }
    let start = envelope(&json!({"start": {"process": which}}));
    let data = envelope(&json!({"data": {"input": {"stdin": STANDARD.encode("c")}}}));
    let headers = lab.headers() + "Content-Type: application/connect+json\r\n";
    let body = [start, envelope(&json!({"keepalive": {}})), data.clone()].concat();
    let mut streamed = Events::new(lab.open("POST /process.Process/StreamInput", &headers, &body));
    assert_eq!((streamed.next().unwrap(), streamed.end()), ((0, json!({})), json!({})));
    let mut early = Events::new(lab.open("POST /process.Process/StreamInput", &headers, &data));
    assert_eq!(early.end()["error"]["code"], "invalid_argument");
    assert_eq!(lab.process("CloseStdin", &json!({"process": which})).status, 200);
    assert_eq!(events.event(), json!({"data": {"stdout": STANDARD.encode("abc")}}));

    let mut silent = lab.start("sleep");
    let which = json!({"pid": silent.pid()});
    let input = json!({"process": which, "input": {"stdin": ""}});
    assert_eq!(lab.process("SendInput", &input).status, 500);
    let resize = json!({"process": which, "pty": {"size": {"cols": 80, "rows": 24}}});
    assert_eq!(lab.process("Update", &resize).status, 500);
    assert_eq!(lab.process("SendInput", &json!({"process": which})).status, 400);
}

#[test]
fn calls_without_the_right_token_are_refused() {
    let lab = Lab::new(Script::default());
    let id = format!("E2b-Sandbox-Id: {}\r\n", lab.sandbox.id());
    for token in ["", "X-Access-Token: wrong\r\n"] {
        let headers = format!("{id}{token}Content-Type: application/json\r\n");
        let reply = lab.send("POST /process.Process/List", &headers, b"{}");
        assert_eq!((reply.status, reply.json()["code"].clone()), (401, json!(401)));
        assert_eq!(lab.send("GET /envs", &headers, b"").status, 401);
        assert_eq!(lab.send("GET /files?path=a", &headers, b"").status, 401);
    }
    assert_eq!(lab.call("GET /envs", "", b"").json(), json!({}));
    assert_eq!(lab.send("POST /init", &lab.headers(), b"{}").status, 501);
    let user = "Authorization: Bearer x\r\nContent-Type: application/json\r\n";
    let reply = lab.call("POST /filesystem.Filesystem/Stat", user, b"{}");
    assert_eq!((reply.status, reply.json()["code"].clone()), (401, json!("unauthenticated")));
}

#[test]
fn malformed_and_oversized_messages_are_refused() {
    let lab = Lab::new(Script::default());
    let post = |body: &[u8]| {
        lab.call("POST /process.Process/List", "Content-Type: application/json\r\n", body)
    };
    let deep = |text: &str| text.repeat(100_000);
    let reply = lab.call(
        "POST /filesystem.Filesystem/Stat",
        "Content-Type: application/json\r\n",
        (deep("[") + &deep("]")).as_bytes(),
    );
    assert_eq!((reply.status, reply.json()["code"].clone()), (400, json!("invalid_argument")));
    let headers = lab.headers() + "Content-Type: application/connect+json\r\n";
    let start = |body: &[u8]| Events::new(lab.open("POST /process.Process/Start", &headers, body));
    assert_eq!(start(&[0, 255, 255, 255, 255]).end()["error"]["code"], "resource_exhausted");
    assert_eq!(start(&[0, 0, 0, 0, 9, b'{']).end()["error"]["code"], "canceled");
    assert_eq!(start(&[1, 0, 0, 0, 0]).end()["error"]["code"], "unimplemented");
    assert_eq!(start(b"").end()["error"]["code"], "invalid_argument");
    assert_eq!(lab.call("POST /process.Process/List", "", b"{}").status, 501);
    assert_eq!(post(b"{}").status, 200);
}

#[test]
fn files_are_described_made_moved_and_removed() {
    let lab = Lab::new(Script::default());
    let home = lab.home.path().to_str().unwrap();
    let made = lab.filesystem("MakeDir", &json!({"path": "a/b"}));
    assert_eq!(
        (made.status, made.json()["entry"]["type"].clone()),
        (200, json!("FILE_TYPE_DIRECTORY"))
    );
    let again = lab.filesystem("MakeDir", &json!({"path": "a/b"}));
    assert_eq!((again.status, again.json()["code"].clone()), (409, json!("already_exists")));
    std::fs::write(lab.home.path().join("a/file"), "1234").unwrap();
    let entry = lab.filesystem("Stat", &json!({"path": "~/a/file"})).json();
    assert_eq!(entry["entry"]["path"], format!("{home}/a/file"));
    assert_eq!(entry["entry"]["size"], "4");
    let listed = lab.filesystem("ListDir", &json!({"path": ""})).json();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1);
    let listed = lab.filesystem("ListDir", &json!({"path": "a", "depth": 2})).json();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 2);
    let moved = json!({"source": "a/file", "destination": "c/d"});
    assert_eq!(lab.filesystem("Move", &moved).json()["entry"]["name"], "d");
    assert_eq!(lab.filesystem("Move", &moved).status, 404);
    assert_eq!(lab.filesystem("Remove", &json!({"path": "c"})).json(), json!({}));
    assert_eq!(lab.filesystem("Remove", &json!({"path": "c"})).status, 200);
    assert_eq!(lab.filesystem("ListDir", &json!({"path": "c"})).status, 404);
    std::fs::write(lab.home.path().join("file"), "").unwrap();
    let listed = lab.filesystem("ListDir", &json!({"path": "file"}));
    assert_eq!((listed.status, listed.json()["code"].clone()), (400, json!("invalid_argument")));
    assert_eq!(lab.filesystem("Stat", &json!({"path": "a\0b"})).status, 400);
    let unknown = json!({"watcherId": "w7"});
    assert_eq!(lab.filesystem("GetWatcherEvents", &unknown).status, 404);
    assert_eq!(lab.filesystem("RemoveWatcher", &unknown).status, 404);
}

#[test]
fn a_file_is_uploaded_as_it_is_or_compressed() {
    let lab = Lab::new(Script::default());
    let home = lab.home.path().to_str().unwrap();
    let octets = "Content-Type: application/octet-stream\r\n";
    let content = vec![7; 300_000];
    let reply = lab.call("POST /files?path=d%2Fa%20b", octets, &content);
    let expected = json!([{"name": "a b", "type": "file", "path": format!("{home}/d/a b")}]);
    assert_eq!((reply.status, reply.json()), (200, expected));
    assert!(std::fs::read(lab.home.path().join("d/a b")).unwrap() == content);

    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b"text").unwrap();
    let packed = encoder.finish().unwrap();
    let headers = format!("{octets}Content-Encoding: gzip\r\n");
    assert_eq!(lab.call("POST /files?path=g", &headers, &packed).status, 200);
    assert_eq!(std::fs::read(lab.home.path().join("g")).unwrap(), b"text");
    let status = |line: &str, headers: &str| lab.call(line, headers, &packed[..9]).status;
    assert_eq!(status("POST /files?path=g", &headers), 400);
    assert_eq!(status("POST /files", octets), 400);
    assert_eq!(status("POST /files?path=d", octets), 400);
    assert_eq!(status("POST /files?path=a%00b", octets), 400);
    assert_eq!(status("POST /files?path=x", "Content-Type: text/plain\r\n"), 400);
    assert_eq!(status("POST /files?path=x", &format!("{octets}Content-Encoding: br\r\n")), 400);
}

#[test]
fn the_files_of_a_form_are_written_in_their_order() {
    let lab = Lab::new(Script::default());
    let headers = "Content-Type: multipart/form-data; boundary=XX\r\n";
    let part = |name: &str, content: &str| {
        format!("--XX\r\nContent-Disposition: form-data; {name}\r\n\r\n{content}\r\n")
    };
    let body = part("name=\"file\"; filename=\"d/b\"", "1")
        + &part("name=\"other\"", "2")
        + &part("name=\"file\"; filename=\"a\"", "3")
        + "--XX--\r\n";
    let reply = lab.call("POST /files", headers, body.as_bytes()).json();
    let names: Vec<_> = reply.as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(std::fs::read(lab.home.path().join("d/b")).unwrap(), b"1");
    assert_eq!(std::fs::read(lab.home.path().join("a")).unwrap(), b"3");

    let one = part("name=\"file\"", "new") + "--XX--\r\n";
    assert_eq!(lab.call("POST /files?path=a", headers, one.as_bytes()).status, 200);
    assert_eq!(std::fs::read(lab.home.path().join("a")).unwrap(), b"new");
    assert_eq!(lab.call("POST /files", headers, one.as_bytes()).status, 400);
    let twice = part("name=\"file\"; filename=\"a\"", "")
        + &part("name=\"file\"; filename=\"./a\"", "")
        + "--XX--";
    assert_eq!(lab.call("POST /files", headers, twice.as_bytes()).status, 400);
    assert_eq!(lab.call("POST /files", headers, &body.as_bytes()[..90]).status, 400);
}

#[test]
fn a_client_that_goes_within_an_upload_ends_it() {
    let lab = Lab::new(Script::default());
    let headers =
        lab.headers() + "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n";
    let mut stream = TcpStream::connect(lab_address(&lab)).unwrap();
    let head = format!("POST /files?path=a HTTP/1.1\r\nHost: a\r\n{headers}\r\n3\r\nabc\r\n5\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    assert_eq!(lab.call("GET /envs", "", b"").status, 200);
}

fn lab_address(lab: &Lab) -> std::net::SocketAddr {
    lab.open("GET /health", "", b"").peer_addr().unwrap()
}

fn put(lab: &Lab, name: &str, content: &[u8]) {
    std::fs::write(lab.home.path().join(name), content).unwrap();
}

#[test]
fn a_file_is_downloaded_as_a_whole_or_a_range_of_it() {
    let lab = Lab::new(Script::default());
    let content: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    put(&lab, "large", &content);
    put(&lab, "empty", b"");
    let reply = lab.call("GET /files?path=large", "", b"");
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("200000")));
    assert!(reply.body == content);
    assert_eq!(lab.call("GET /files?path=empty", "", b"").header("content-length"), Some("0"));
    let part = lab.call("GET /files?path=large", "Range: bytes=10-12\r\n", b"");
    assert_eq!((part.status, &part.body[..]), (206, &content[10..13]));
    assert_eq!(part.header("content-range"), Some("bytes 10-12/200000"));
    let part = lab.call("GET /files?path=large", "Range: bytes=-3\r\n", b"");
    assert_eq!((part.status, &part.body[..]), (206, &content[199_997..]));
    let beyond = lab.call("GET /files?path=large", "Range: bytes=200000-\r\n", b"");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */200000")));

    let missing = lab.call("GET /files?path=no", "", b"");
    let expected = json!({"code": 404, "message": "path 'no' does not exist"});
    assert_eq!((missing.status, missing.json()), (404, expected));
    assert_eq!(lab.call("GET /files?path=.", "", b"").status, 400);
    assert_eq!(lab.call("GET /files", "", b"").status, 400);
    let status = |codings: &str| {
        lab.call("GET /files?path=empty", &format!("Accept-Encoding: {codings}\r\n"), b"").status
    };
    assert_eq!(
        (status("gzip, deflate"), status("gzip, identity;q=0"), status("*;q=0")),
        (200, 406, 406)
    );
}

#[test]
fn a_file_that_is_longer_than_its_size_is_sent_to_its_end() {
    let lab = Lab::new(Script::default());
    for range in ["", "Range: bytes=5-\r\n", "Range: bytes=-5\r\n"] {
        let reply = lab.call("GET /files?path=/proc/sys/kernel/random/boot_id", range, b"");
        assert_eq!((reply.status, reply.body.len()), (200, 37));
    }
}

#[test]
fn a_signed_url_names_its_sandbox_and_nothing_else_of_it() {
    let lab = Lab::new(Script::default());
    put(&lab, "a b", b"text");
    let token = lab.sandbox.envd_token();
    let sign = |text: &str| {
        let digest = Sha256::digest(text.replace("TOKEN", token));
        format!("v1_{}", STANDARD_NO_PAD.encode(digest)).replace('+', "%2B")
    };
    let get = |query: String| lab.send(&format!("GET /files?path=a+b{query}"), "", b"");
    let signature = sign("a b:read::TOKEN");
    assert_eq!(get(format!("&signature={signature}")).text(), "text");
    assert_eq!(get(format!("&username=root&signature={signature}")).status, 401);
    assert_eq!(get(String::new()).json()["message"], "missing signature query parameter");
    let write = lab.send(&format!("POST /files?path=a+b&signature={signature}"), "", b"");
    assert_eq!((write.status, write.json()["message"].clone()), (401, json!("invalid signature")));
    let late = sign("a b:read::TOKEN:1000");
    let reply = get(format!("&signature_expiration=1000&signature={late}"));
    let expected = json!({"code": 401, "message": "signature is already expired"});
    assert_eq!((reply.status, reply.json()), (401, expected));
    let listed = lab.send(&format!("POST /process.Process/List?signature={signature}"), "", b"{}");
    assert_eq!(listed.status, 400);
}
