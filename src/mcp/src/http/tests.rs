//! The endpoint over HTTP, against scripted sandboxes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use http_server::{Endpoint, Limits, Server as HttpServer};
use sandbox::fake::{Manner, Script};
use sandbox_api::{NewKey, Scope};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::options::Options;
use crate::testing::World;

const SHELL: &str = "/bin/sh";

/// A clock that tests set.
struct ManualClock {
    start: Instant,
    passed: base::sync::Mutex<Duration>,
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + *self.passed.lock()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

struct Lab {
    address: SocketAddr,
    keys: Arc<Keys>,
    key: String,
    clock: Arc<ManualClock>,
    world: World,
    http: Arc<Http>,
    _server: HttpServer,
    _folder: TempDir,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The messages of a stream of events.
    fn events(&self) -> Vec<Value> {
        let events = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        events.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Lab {
    fn new(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::new(folder.path()));
        let (_, key) = keys.create(NewKey::default()).unwrap();
        let world = World::new(script);
        let sandboxes = Arc::clone(&world.sandboxes);
        let domain = Some("boxes.example:8443".to_owned());
        let server = Server::remote(sandboxes, Options::default(), domain.clone());
        let clock = Arc::new(ManualClock { start: Instant::now(), passed: Default::default() });
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let http = Arc::new(Http::new(server, Arc::clone(&keys), Hosts::new(domain), shared));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::clone(&http) as Arc<dyn Handler>;
        let endpoints = vec![Endpoint::Tcp(listener)];
        let server = HttpServer::start("test", endpoints, handler, Limits::default()).unwrap();
        Self { address, keys, key, clock, world, http, _server: server, _folder: folder }
    }

    /// Sends a request whose connection is to be closed after the reply.
    fn open(&self, method: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let has = |name: &str| headers.contains(name);
        let host = if has("Host: ") { "" } else { "Host: localhost\r\n" };
        let kind = if has("Content-Type: ") { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let head = format!(
            "{method} /mcp HTTP/1.1\r\n{host}{kind}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses the head does not read the body.
        let _ = stream.write_all(body.as_bytes());
        stream
    }

    fn send(&self, method: &str, headers: &str, body: &str) -> Reply {
        read(self.open(method, headers, body))
    }

    fn headers(&self, session: &str) -> String {
        let key = &self.key;
        format!("Authorization: Bearer {key}\r\nMcp-Session-Id: {session}\r\n{BOTH}")
    }

    fn post(&self, session: &str, message: &Value) -> Reply {
        self.send("POST", &self.headers(session), &message.to_string())
    }

    fn initialize_as(&self, key: &str) -> Reply {
        let headers = format!("X-API-Key: {key}\r\n{BOTH}");
        self.send("POST", &headers, &initialize().to_string())
    }

    fn session(&self) -> String {
        let reply = self.initialize_as(&self.key);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.header("mcp-session-id").unwrap().to_owned()
    }
}

const BOTH: &str = "Accept: application/json, text/event-stream\r\n";

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}})
}

fn ping() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})
}

fn call(id: i32, tool: &str, arguments: &Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

fn read(stream: TcpStream) -> Reply {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = String::new();
    reader.read_to_string(&mut body).unwrap();
    if head.contains("chunked") {
        body = chunks(&body);
    }
    Reply { status, head, body }
}

/// The text of chunks, whose sizes are on lines of their own.
fn chunks(mut rest: &str) -> String {
    let mut text = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    text
}

fn wait_for_command(lab: &Lab) {
    let runs = || {
        let record = lab.world.launcher.factory.record();
        record.execs.iter().any(|exec| exec.argv[0] == SHELL)
    };
    while !runs() {
        std::thread::yield_now();
    }
}

#[test]
fn a_session_is_initialized_used_and_ended() {
    let lab = Lab::new(Script::default());
    let reply = lab.initialize_as(&lab.key);
    assert_eq!(reply.json()["result"]["protocolVersion"], "2025-06-18");
    let session = reply.header("mcp-session-id").unwrap();
    assert_eq!(session.len(), 40);
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let accepted = lab.post(session, &initialized);
    assert_eq!((accepted.status, accepted.body.as_str()), (202, ""));
    let answer = lab.post(session, &ping());
    assert_eq!((answer.status, answer.json()["result"].clone()), (200, json!({})));
    assert_eq!(lab.send("GET", &lab.headers(session), "").status, 405);
    assert_eq!(lab.send("DELETE", &lab.headers(session), "").status, 204);
    assert_eq!(lab.post(session, &ping()).status, 404);
    assert_eq!(lab.send("DELETE", &lab.headers(session), "").status, 404);
}

#[test]
fn a_call_is_answered_by_events_or_by_json() {
    let lab = Lab::new(Script::default().on(SHELL, &["hi\n"], 0));
    let session = lab.session();
    let reply = lab.post(&session, &call(5, "run_command", &json!({"command": "x"})));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events = reply.events();
    assert_eq!(events[0]["params"]["message"], "starting the sandbox");
    let last = events.last().unwrap();
    assert_eq!(last["id"], 5);
    assert_eq!(last["result"]["content"][0]["text"], "hi\n[exit code 0]");

    let headers = lab.headers(&session).replace(BOTH, "Accept: application/json\r\n");
    let message = call(6, "run_command", &json!({"command": "x"})).to_string();
    let reply = lab.send("POST", &headers, &message);
    assert_eq!(reply.json()["result"]["content"][0]["text"], "hi\n[exit code 0]");
    let headers = headers.replace("application/json\r\n", "text/html\r\n");
    assert_eq!(lab.send("POST", &headers, &message).status, 406);
}

#[test]
fn a_key_is_needed_and_it_must_be_one_that_may_change_things() {
    let lab = Lab::new(Script::default());
    let read_only = NewKey { scope: Scope::Read, ..NewKey::default() };
    let (_, reader) = lab.keys.create(read_only).unwrap();
    let refused = lab.send("POST", BOTH, &initialize().to_string());
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(lab.initialize_as("e2b_00").status, 401);
    assert_eq!(lab.initialize_as(&reader).status, 403);
    let session = lab.session();
    let id = lab.keys.list().unwrap()[0].id.clone();
    lab.keys.revoke(&id).unwrap();
    assert_eq!(lab.post(&session, &ping()).status, 401);
}

#[test]
fn a_session_and_its_sandboxes_are_those_of_its_key() {
    let lab = Lab::new(Script::default());
    let (_, other) = lab.keys.create(NewKey::default()).unwrap();
    let session = lab.session();
    let created = lab.post(&session, &call(1, "create_sandbox", &json!({})));
    let sandbox =
        created.events().last().unwrap()["result"]["structuredContent"]["sandbox_id"].clone();
    let foreign = format!("X-API-Key: {other}\r\nMcp-Session-Id: {session}\r\n{BOTH}");
    assert_eq!(lab.send("POST", &foreign, &ping().to_string()).status, 404);
    assert_eq!(lab.send("DELETE", &foreign, "").status, 404);
    let own = lab.initialize_as(&other).header("mcp-session-id").unwrap().to_owned();
    let headers = foreign.replace(&session, &own);
    let end = call(1, "end_sandbox", &json!({"sandbox_id": sandbox})).to_string();
    let reply = lab.send("POST", &headers, &end);
    assert_eq!(reply.events().last().unwrap()["result"]["isError"], true);
    assert_eq!(lab.world.sandboxes.all().len(), 1);
}

#[test]
fn pages_of_other_sites_are_refused() {
    let lab = Lab::new(Script::default());
    let status = |headers: &str| {
        let headers = format!("X-API-Key: {}\r\n{BOTH}{headers}", lab.key);
        lab.send("POST", &headers, &initialize().to_string()).status
    };
    assert_eq!(status("Origin: https://evil.example\r\n"), 403);
    assert_eq!(status("Origin: null\r\n"), 403);
    assert_eq!(status("Origin: http://localhost:5\r\nOrigin: https://evil.example\r\n"), 403);
    assert_eq!(status("Host: evil.example:8490\r\nOrigin: http://evil.example:8490\r\n"), 421);
    assert_eq!(status("Host: evil.example\r\n"), 421);
    assert_eq!(status("Origin: http://localhost:5\r\n"), 200);
    assert_eq!(status("Host: api.boxes.example\r\nOrigin: https://api.boxes.example\r\n"), 200);
}

#[test]
fn what_is_no_message_of_a_session_is_refused() {
    let lab = Lab::new(Script::default());
    let session = lab.session();
    let key = format!("X-API-Key: {}\r\n{BOTH}", lab.key);
    let status = |headers: &str, body: &str| lab.send("POST", headers, body).status;
    assert_eq!(status(&key, &ping().to_string()), 400);
    let probe = json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover"}).to_string();
    let probed = lab.send("POST", &format!("{key}MCP-Protocol-Version: 2026-07-28\r\n"), &probe);
    assert_eq!((probed.status, probed.json()["error"]["code"].clone()), (400, json!(-32601)));
    let headers = lab.headers(&session);
    assert_eq!(status(&headers, "{"), 400);
    assert_eq!(status(&headers, &format!("[{}]", ping())), 400);
    assert_eq!(status(&headers, &"[".repeat(1 << 20)), 400);
    assert_eq!(
        status(&format!("{headers}MCP-Protocol-Version: 1999-01-01\r\n"), &ping().to_string()),
        400
    );
    assert_eq!(
        status(&format!("{headers}MCP-Protocol-Version: 2025-06-18\r\n"), &ping().to_string()),
        200
    );
    assert_eq!(status(&format!("{headers}Content-Type: text/plain\r\n"), &ping().to_string()), 415);
    assert_eq!(status(&headers, &" ".repeat((4 << 20) + 1)), 413);
    assert_eq!(status(&headers.replace(&session, "guess"), &ping().to_string()), 404);
    let again = lab.post(&session, &initialize());
    assert_eq!((again.status, again.json()["error"]["code"].clone()), (200, json!(-32600)));
    assert_eq!(again.header("mcp-session-id"), None);
}

#[test]
fn a_cancelled_call_ends_its_stream_without_a_reply() {
    let lab = Lab::new(Script::default().hold(SHELL, Manner::Deaf));
    let session = lab.session();
    let message = call(9, "run_command", &json!({"command": "sleep"}));
    let stream = lab.open("POST", &lab.headers(&session), &message.to_string());
    wait_for_command(&lab);
    let params = json!({"requestId": 9});
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
    assert_eq!(lab.post(&session, &cancel).status, 202);
    let events = read(stream).events();
    assert!(events.iter().all(|event| event["id"] == Value::Null), "{events:?}");
}

#[test]
fn the_end_of_a_session_cancels_its_calls_and_ends_its_own_sandbox_alone() {
    let lab = Lab::new(Script::default().hold(SHELL, Manner::Deaf));
    let session = lab.session();
    lab.post(&session, &call(1, "create_sandbox", &json!({})));
    let message = call(9, "run_command", &json!({"command": "sleep"}));
    let stream = lab.open("POST", &lab.headers(&session), &message.to_string());
    wait_for_command(&lab);
    assert_eq!(lab.world.sandboxes.all().len(), 2);
    assert_eq!(lab.send("DELETE", &lab.headers(&session), "").status, 204);
    read(stream);
    assert_eq!(lab.world.sandboxes.all().len(), 1);
}

#[test]
fn a_session_ends_when_it_is_not_used() {
    let lab = Lab::new(Script::default());
    let session = lab.session();
    *lab.clock.passed.lock() += Duration::from_secs(59 * 60);
    assert_eq!(lab.post(&session, &ping()).status, 200);
    *lab.clock.passed.lock() += Duration::from_secs(59 * 60);
    assert_eq!(lab.post(&session, &ping()).status, 200);
    *lab.clock.passed.lock() += Duration::from_secs(61 * 60);
    assert_eq!(lab.post(&session, &ping()).status, 404);
}

#[test]
fn a_session_too_many_makes_the_longest_unused_one_go() {
    let lab = Lab::new(Script::default());
    let sessions: Vec<_> = std::iter::repeat_with(|| {
        *lab.clock.passed.lock() += Duration::from_secs(1);
        lab.session()
    })
    .take(64)
    .collect();
    *lab.clock.passed.lock() += Duration::from_secs(1);
    assert_eq!(lab.post(&sessions[0], &ping()).status, 200);
    lab.session();
    assert_eq!(lab.post(&sessions[0], &ping()).status, 200);
    assert_eq!(lab.post(&sessions[1], &ping()).status, 404);
}

#[test]
fn a_server_that_stops_ends_calls_and_begins_no_sessions() {
    let lab = Lab::new(Script::default().hold(SHELL, Manner::Deaf));
    let session = lab.session();
    let message = call(9, "run_command", &json!({"command": "sleep"}));
    let stream = lab.open("POST", &lab.headers(&session), &message.to_string());
    wait_for_command(&lab);
    lab.http.stop();
    read(stream);
    assert_eq!(lab.initialize_as(&lab.key).status, 503);
    assert_eq!(lab.post(&session, &ping()).status, 404);
}

#[test]
fn a_port_is_published_by_its_host_name() {
    let lab = Lab::new(Script::default().listen(80));
    let session = lab.session();
    let reply = lab.post(&session, &call(1, "publish_port", &json!({"port": 80})));
    let published = reply.events().last().unwrap()["result"]["structuredContent"].clone();
    let id = published["sandbox_id"].as_str().unwrap();
    assert_eq!(published["url"], format!("http://80-{id}.boxes.example:8443/"));
    assert_eq!(published["headers"], json!({}));
}
