//! The REST API over HTTP, against scripted sandboxes.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http_server::{Endpoint, Limits as ServerLimits, Server};
use sandbox::fake::Script;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::fake::FakeLauncher;
use crate::key::{ApiKey, NewKey};
use crate::launcher::Destination;
use crate::sandboxes::{Caller, Limits};
use crate::testing::{ManualClock, registry};

const MINUTE: Duration = Duration::from_secs(60);

/// A server with one key.
struct Lab {
    address: SocketAddr,
    key: String,
    keys: Arc<Keys>,
    sandboxes: Arc<Sandboxes>,
    launcher: Arc<FakeLauncher>,
    clock: Arc<ManualClock>,
    _server: Server,
    _folder: TempDir,
}

struct Reply {
    status: u16,
    head: String,
    body: Value,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The status, which is also in an error's body with a text.
    fn error(&self) -> (u16, String) {
        assert_eq!(self.body.get("code"), Some(&json!(self.status)));
        assert_eq!(self.header("content-type"), Some("application/json"));
        (self.status, self.body["message"].as_str().unwrap().to_owned())
    }
}

impl Lab {
    fn new() -> Self {
        Self::with(Script::default(), NewKey::default())
    }

    fn with(script: Script, new: NewKey) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::new(folder.path()));
        let (_, key) = keys.create(new).unwrap();
        let (sandboxes, launcher, clock) = registry(script);
        let domain = Some("sandboxes.example:8443".to_owned());
        let rest = Rest::new(Arc::clone(&sandboxes), Arc::clone(&keys), domain, clock.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let endpoints = vec![Endpoint::Tcp(listener)];
        let server =
            Server::start("test", endpoints, Arc::new(rest), ServerLimits::default()).unwrap();
        Self { address, key, keys, sandboxes, launcher, clock, _server: server, _folder: folder }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &format!("X-API-KEY: {}\r\n", self.key), body)
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses the head does not read the body.
        let _ = stream.write_all(body.as_bytes());
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
        Reply { status, head: head.to_owned(), body }
    }

    /// Creates a sandbox and returns its id.
    fn create(&self, body: &str) -> String {
        let reply = self.call("POST", "/v2/sandboxes", body);
        assert_eq!(reply.status, 201, "{}", reply.body);
        reply.body["sandboxID"].as_str().unwrap().to_owned()
    }

    fn end_at(&self, id: &str) -> String {
        let info = self.call("GET", &format!("/sandboxes/{id}"), "");
        info.body["endAt"].as_str().unwrap().to_owned()
    }
}

const BASE: &str = r#"{"templateID":"base"}"#;

#[test]
fn a_created_sandbox_has_all_that_a_client_needs() {
    let lab = Lab::new();
    let reply =
        lab.call("POST", "/v2/sandboxes", r#"{"templateID":"base","metadata":{},"envVars":{}}"#);
    assert_eq!(reply.status, 201);
    let id = reply.body["sandboxID"].as_str().unwrap();
    let sandbox = lab.sandboxes.find(id).unwrap();
    let expected = json!({
        "templateID": "default",
        "alias": "base",
        "sandboxID": id,
        "clientID": "local",
        "envdVersion": "0.6.13",
        "envdAccessToken": sandbox.envd_token(),
        "domain": "sandboxes.example:8443",
    });
    assert_eq!(reply.body, expected);
}

#[test]
fn the_calls_of_older_clients_have_the_same_replies() {
    let lab = Lab::new();
    let body = r#"{"templateID":"base","timeout":300,"secure":true,"allow_internet_access":true,"metadata":{},"envVars":{}}"#;
    let created = lab.call("POST", "/sandboxes", body);
    assert_eq!(created.status, 201);
    let id = created.body["sandboxID"].as_str().unwrap();
    let path = format!("/sandboxes/{id}/connect");
    let connected = lab.call("POST", &path, r#"{"timeout":300}"#);
    assert_eq!((connected.status, &connected.body), (200, &created.body));
    assert_eq!(
        lab.call("POST", &format!("/sandboxes/{id}/pause"), r#"{"memory":true}"#).status,
        204
    );
    let resumed =
        lab.call("POST", &format!("/sandboxes/{id}/resume"), r#"{"timeout":60,"autoPause":false}"#);
    assert_eq!((resumed.status, &resumed.body), (201, &created.body));
}

#[test]
fn what_a_request_asks_for_reaches_the_sandbox() {
    let lab = Lab::new();
    let body = json!({
        "templateID": "other", "timeout": 60, "metadata": {"a": "b"}, "envVars": {"X": "1"},
        "autoPause": true, "autoResume": {"enabled": true}, "autoPauseMemory": true,
        "allow_internet_access": false,
        "network": {
            "allowOut": ["1.1.1.1", "example.com"], "denyOut": ["8.8.8.0/24"],
            "allowPublicTraffic": false, "maskRequestHost": "localhost:${PORT}",
        },
        "mcp": {}, "volumeMounts": [],
    });
    let created = lab.call("POST", "/v2/sandboxes", &body.to_string());
    let id = created.body["sandboxID"].as_str().unwrap();
    let sandbox = lab.sandboxes.find(id).unwrap();
    assert_eq!(created.body["trafficAccessToken"].as_str(), sandbox.traffic_token());
    assert_eq!(sandbox.env().get("X").unwrap(), "1");
    let launched = lab.launcher.requests.lock().first().cloned().unwrap();
    assert_eq!(launched.template, "other");
    assert!(!launched.network.allow_internet);
    let hosts = [
        Destination::Net("1.1.1.1/32".parse().unwrap()),
        Destination::Host("example.com".to_owned()),
    ];
    assert_eq!(launched.network.allow_out, hosts);
    let info = lab.call("GET", &format!("/sandboxes/{id}"), "").body;
    let expected = json!({
        "templateID": "other", "alias": "other", "sandboxID": id, "clientID": "local", "envdVersion": "0.6.13",
        "startedAt": "2027-01-15T08:00:00.000000Z", "endAt": "2027-01-15T08:01:00.000000Z",
        "cpuCount": 2, "memoryMB": 512, "diskSizeMB": 1024, "metadata": {"a": "b"}, "state": "running",
        "envdAccessToken": sandbox.envd_token(), "allowInternetAccess": false,
        "network": {
            "allowOut": ["1.1.1.1", "example.com"], "denyOut": ["8.8.8.0/24"],
            "allowPublicTraffic": false, "maskRequestHost": "localhost:${PORT}",
        },
        "lifecycle": {"autoResume": true, "onTimeout": "pause"},
        "domain": "sandboxes.example:8443",
    });
    assert_eq!(info, expected);
}

#[test]
fn a_call_without_a_valid_key_is_refused() {
    let lab = Lab::new();
    let without = lab.send("GET", "/v2/sandboxes", "", "");
    assert_eq!(without.error(), (401, "the header X-API-Key is missing".to_owned()));
    let wrong = lab.send("POST", "/v2/sandboxes", "X-API-Key: e2b_00\r\n", BASE);
    assert_eq!(wrong.error().0, 401);
    let key = lab.keys.list().unwrap().first().map(|key: &ApiKey| key.id.clone()).unwrap();
    lab.keys.revoke(&key).unwrap();
    assert_eq!(lab.call("GET", "/v2/sandboxes", "").error().0, 401);
}

#[test]
fn a_key_that_may_only_read_sees_no_token_and_changes_nothing() {
    let lab = Lab::with(Script::default(), NewKey { scope: Scope::Read, ..NewKey::default() });
    assert_eq!(lab.call("POST", "/v2/sandboxes", BASE).error().0, 403);
    let caller = lab.keys.list().unwrap().first().unwrap().caller();
    let request = crate::sandboxes::CreateRequest::new("base");
    let sandbox = lab.sandboxes.create(&caller, request).unwrap();
    let path = format!("/sandboxes/{}", sandbox.id());
    let info = lab.call("GET", &path, "");
    assert_eq!((info.status, info.body.get("envdAccessToken")), (200, None));
    assert_eq!(lab.call("DELETE", &path, "").error().0, 403);
}

#[test]
fn a_sandbox_of_another_key_is_not_found() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    let (_, other) = lab.keys.create(NewKey::default()).unwrap();
    let other = format!("X-API-KEY: {other}\r\n");
    let send = |method, path: &str, body| {
        lab.send(method, &format!("/sandboxes/{id}{path}"), &other, body)
    };
    assert_eq!(send("GET", "", "").error().0, 404);
    assert_eq!(send("DELETE", "", "").error().0, 404);
    assert_eq!(send("POST", "/connect", "{}").error().0, 404);
    assert_eq!(send("POST", "/pause", "").error().0, 404);
    assert_eq!(send("POST", "/timeout", r#"{"timeout":1}"#).error().0, 404);
    assert_eq!(send("GET", "/metrics", "").error().0, 404);
    assert_eq!(lab.send("GET", "/v2/sandboxes", &other, "").body, json!([]));
}

#[test]
fn a_killed_sandbox_is_gone() {
    let lab = Lab::new();
    let path = format!("/sandboxes/{}", lab.create(BASE));
    assert_eq!(lab.call("DELETE", &path, "").status, 204);
    assert_eq!(lab.call("DELETE", &path, "").error().0, 404);
    assert_eq!(lab.call("GET", &path, "").error().0, 404);
    assert_eq!(lab.call("POST", &format!("/v2{path}/connect"), "").error().0, 404);
}

#[test]
fn a_paused_sandbox_is_listed_and_resumed() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    let path = format!("/sandboxes/{id}");
    // Old clients send no body.
    assert_eq!(lab.call("POST", &format!("{path}/pause"), "").status, 204);
    assert_eq!(lab.call("POST", &format!("{path}/pause"), "{}").error().0, 409);
    let info = lab.call("GET", &path, "").body;
    assert_eq!((&info["state"], &info["pauseMode"]), (&json!("paused"), &json!("full")));
    assert_eq!(lab.call("POST", &format!("{path}/timeout"), r#"{"timeout":9}"#).error().0, 404);
    assert_eq!(
        lab.call("GET", "/v2/sandboxes?state=running%2Cpaused", "").body[0]["sandboxID"],
        json!(id)
    );
    assert_eq!(lab.call("GET", "/sandboxes", "").body, json!([]));
    let connected = lab.call("POST", &format!("/v2{path}/connect"), "{}");
    assert_eq!((connected.status, &connected.body["sandboxID"]), (201, &json!(id)));
    assert_eq!(lab.call("POST", &format!("/v2{path}/connect"), "").status, 200);
}

#[test]
fn a_pause_without_memory_is_not_implemented() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    let reply = lab.call(
        "POST",
        &format!("/sandboxes/{id}/pause"),
        r#"{"memory":false,"requireHealthyGuest":true}"#,
    );
    assert_eq!(reply.error().0, 501);
    assert_eq!(lab.call("GET", &format!("/sandboxes/{id}"), "").body["state"], json!("running"));
}

#[test]
fn time_outs_are_set_shortened_and_extended() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    let path = format!("/sandboxes/{id}");
    let end = lab.end_at(&id);
    assert_eq!(end, "2027-01-15T08:05:00.000000Z");
    assert_eq!(lab.call("POST", &format!("/v2{path}/connect"), r#"{"timeout":60}"#).status, 200);
    assert_eq!(lab.end_at(&id), end);
    assert_eq!(lab.call("POST", &format!("{path}/timeout"), r#"{"timeout":30}"#).status, 204);
    assert_eq!(lab.end_at(&id), "2027-01-15T08:00:30.000000Z");
    assert_eq!(lab.call("POST", &format!("{path}/refreshes"), r#"{"duration":10}"#).status, 204);
    assert_eq!(lab.end_at(&id), "2027-01-15T08:00:30.000000Z");
    assert_eq!(lab.call("POST", &format!("{path}/refreshes"), "").status, 204);
    assert_eq!(lab.end_at(&id), "2027-01-15T08:01:00.000000Z");
    let sandbox = lab.sandboxes.find(&id).unwrap();
    assert_eq!(lab.call("POST", &format!("{path}/timeout"), r#"{"timeout":-5}"#).status, 204);
    assert!(sandbox.ended().recv().is_err());
    assert_eq!(lab.call("GET", &path, "").error().0, 404);
}

#[test]
fn requests_that_make_no_sense_say_why() {
    let lab = Lab::new();
    let create = |body: &str| lab.call("POST", "/v2/sandboxes", body).error();
    assert_eq!(create(""), (400, "`templateID` is missing".to_owned()));
    assert_eq!(create("{"), create("{"));
    assert!(create("{").1.starts_with("the body is not JSON: "));
    assert_eq!(create("[]"), (400, "the body is not a JSON object".to_owned()));
    assert_eq!(create(r#"{"templateID":7}"#), (400, "`templateID` is not a string".to_owned()));
    assert_eq!(create(r#"{"templateID":"x"}"#), (404, "template `x` does not exist".to_owned()));
    let with = |field: &str| create(&format!(r#"{{"templateID":"base",{field}}}"#));
    assert_eq!(with(r#""timeout":0"#), (400, "the time-out must be greater than 0".to_owned()));
    assert_eq!(with(r#""timeout":86401"#).0, 400);
    assert_eq!(with(r#""timeout":"x""#), (400, "`timeout` is not a number".to_owned()));
    assert_eq!(
        with(r#""metadata":{"a":1}"#),
        (400, "`metadata` is not an object of strings".to_owned())
    );
    assert_eq!(with(r#""envVars":{"a=b":"c"}"#).0, 400);
    assert_eq!(with(r#""autoPauseMemory":false"#).0, 400);
    assert_eq!(
        with(r#""iam":{"role":"x"}"#),
        (400, "`iam` is not supported by this server".to_owned())
    );
    assert_eq!(with(r#""volumeMounts":[{"name":"a","path":"/a"}]"#).0, 400);
    assert_eq!(
        with(r#""newFeature":true"#),
        (400, "`newFeature` is not supported by this server".to_owned())
    );
    assert_eq!(with(r#""network":{"egressProxy":{"address":"a:1"}}"#).0, 400);
    let large = format!(r#""metadata":{{"a":"{}"}}"#, "x".repeat(64 * 1024));
    assert!(with(&large).1.contains("at most 65536"));
    assert!(lab.launcher.requests.lock().is_empty());
}

#[test]
fn a_body_of_more_than_a_mebibyte_is_refused() {
    let lab = Lab::new();
    let reply = lab.call("POST", "/v2/sandboxes", &" ".repeat((1 << 20) + 1));
    assert_eq!(reply.error().0, 413);
}

#[test]
fn limits_and_missing_room_have_their_own_statuses() {
    let limits = Limits { sandboxes: Some(1), ..Limits::default() };
    let lab = Lab::with(Script::default(), NewKey { limits, ..NewKey::default() });
    *lab.launcher.is_full.lock() = true;
    let full = lab.call("POST", "/v2/sandboxes", BASE);
    assert_eq!((full.error().0, full.header("retry-after")), (503, Some("1")));
    *lab.launcher.is_full.lock() = false;
    lab.create(BASE);
    let over = lab.call("POST", "/v2/sandboxes", BASE);
    assert_eq!((over.error().0, over.header("should-retry")), (429, Some("false")));
}

#[test]
fn a_repeated_request_with_an_idempotency_key_creates_one_sandbox() {
    let lab = Lab::new();
    let send = |body| {
        let headers = format!("X-API-KEY: {}\r\nIdempotency-Key: abc-1\r\n", lab.key);
        lab.send("POST", "/v2/sandboxes", &headers, body)
    };
    *lab.launcher.is_full.lock() = true;
    assert_eq!(send(BASE).error().0, 503);
    *lab.launcher.is_full.lock() = false;
    let first = send(BASE);
    assert_eq!((first.status, send(BASE).body), (201, first.body));
    assert_eq!(send(r#"{"templateID":"other"}"#).error().0, 422);
    assert_eq!(lab.launcher.requests.lock().len(), 1);
    lab.clock.advance(61 * MINUTE);
    assert_eq!(send(r#"{"templateID":"other"}"#).status, 201);
}

#[test]
fn a_list_is_filtered_and_has_pages() {
    let lab = Lab::new();
    let created = ["1", "2", "3"].map(|number| {
        let id =
            lab.create(&format!(r#"{{"templateID":"base","metadata":{{"n m":"{number}&"}}}}"#));
        lab.clock.advance(MINUTE / 60);
        id
    });
    let list = |query: &str| lab.call("GET", &format!("/v2/sandboxes{query}"), "");
    let ids = |reply: &Reply| {
        let all = reply.body.as_array().unwrap().iter();
        all.map(|one| one["sandboxID"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = list("?limit=2&order=asc");
    assert_eq!((ids(&first), first.header("x-total-running")), (created[..2].to_vec(), Some("3")));
    let token = first.header("x-next-token").unwrap();
    let last = list(&format!("?limit=2&order=asc&nextToken={token}"));
    assert_eq!((ids(&last), last.header("x-next-token")), (created[2..].to_vec(), None));
    assert_eq!(ids(&list("?metadata=n%252520m%3D2%252526")), created[1..2]);
    assert_eq!(ids(&list("?template=base&limit=1")), created[2..]);
    assert_eq!(ids(&list("?startedAfter=2027-01-15T08%3A00%3A02%2B00%3A00")), created[2..]);
    assert_eq!(ids(&list("?state=paused")), Vec::<String>::new());
    assert_eq!(list("?state=gone").error().0, 400);
    assert_eq!(list("?limit=0").error().0, 400);
    assert_eq!(list("?order=up").error().0, 400);
    assert_eq!(list("?startedAfter=now").error().0, 400);
    assert_eq!(list("?nextToken=x").error().0, 400);
}

#[test]
fn a_network_is_replaced_while_the_sandbox_runs() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    let path = format!("/sandboxes/{id}/network");
    assert_eq!(lab.call("PUT", &path, r#"{"denyOut":["8.8.8.8"]}"#).status, 204);
    let rules = lab.launcher.factory.record().networks[0].policy.rules.clone();
    assert_eq!(rules[0].to, "8.8.8.8/32".parse().unwrap());
    let info = lab.call("GET", &format!("/sandboxes/{id}"), "").body;
    assert_eq!(info["network"], json!({"denyOut": ["8.8.8.8"]}));
    assert_eq!(lab.call("PUT", &path, "{}").status, 204);
    assert!(lab.launcher.factory.record().networks[1].policy.rules.is_empty());
    assert_eq!(lab.call("PUT", &path, r#"{"egressProxy":{"address":"a:1"}}"#).error().0, 400);
    assert_eq!(lab.call("POST", &format!("/sandboxes/{id}/pause"), "").status, 204);
    assert_eq!(lab.call("PUT", &path, "{}").error().0, 404);
}

#[test]
fn metrics_are_what_the_guest_tells() {
    let proc = "cpu  10 0 20 60 10 0 0 0 0 0\nMemTotal: 1000 kB\nMemFree: 500 kB\nBuffers: 10 kB\nCached: 90 kB\n";
    let script = Script::default().on("cat", &[proc], 0).on("stat", &["4096 100 75\n"], 0);
    let lab = Lab::with(script, NewKey::default());
    let path = format!("/sandboxes/{}/metrics", lab.create(BASE));
    let sample = json!({
        "timestamp": "2027-01-15T08:00:00.000000Z", "timestampUnix": 1_800_000_000,
        "cpuCount": 2, "cpuUsedPct": 30.0, "memUsed": 409_600, "memTotal": 1_024_000, "memCache": 102_400,
        "diskUsed": 102_400, "diskTotal": 409_600,
    });
    assert_eq!(lab.call("GET", &path, "").body, json!([sample]));
    assert_eq!(lab.call("GET", &format!("{path}?end=1799999999"), "").body, json!([]));
    assert_eq!(lab.call("GET", &format!("{path}?start=1800000000"), "").body, json!([sample]));
    assert_eq!(lab.call("GET", &format!("{path}?start=x"), "").error().0, 400);
}

#[test]
fn templates_are_those_of_the_launcher() {
    let lab = Lab::new();
    let templates = lab.call("GET", "/templates", "").body;
    assert_eq!(
        (&templates[0]["templateID"], &templates[0]["aliases"]),
        (&json!("default"), &json!(["base"]))
    );
    assert_eq!(lab.call("GET", "/templates/aliases/base", "").body["templateID"], json!("default"));
    assert_eq!(lab.call("GET", "/templates/aliases/x", "").error().0, 404);
}

#[test]
fn the_logs_of_a_sandbox_have_its_life() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    lab.clock.advance(MINUTE);
    assert_eq!(lab.call("POST", &format!("/sandboxes/{id}/pause"), "").status, 204);
    let messages = |query: &str| {
        let reply = lab.call("GET", &format!("/v2/sandboxes/{id}/logs{query}"), "");
        let logs = reply.body["logs"].as_array().unwrap().clone();
        logs.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let (started, paused) = ("sandbox started", "sandbox paused");
    assert_eq!(messages(""), [started, paused]);
    assert_eq!(messages("?direction=backward"), [paused, started]);
    assert_eq!(messages("?cursor=1800000000001"), [paused]);
    assert_eq!(messages("?cursor=1800000000001&direction=backward"), [started]);
    assert_eq!(messages("?limit=1"), [started]);
    assert_eq!(messages("?search=pause&level=info"), [paused]);
    assert_eq!(messages("?level=warn"), [""; 0]);
    let lines = lab.call("GET", &format!("/sandboxes/{id}/logs?start=1800000000001"), "");
    assert_eq!(lines.body["logEntries"][0]["timestamp"], json!("2027-01-15T08:01:00.000000Z"));
    let line: Value =
        serde_json::from_str(lines.body["logs"][0]["line"].as_str().unwrap()).unwrap();
    assert_eq!(line, json!({"level": "info", "logger": "sandbox", "message": paused}));
}

#[test]
fn a_wrong_question_for_logs_is_refused_by_its_value() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    for query in ["cursor=-1", "limit=x", "direction=up", "level=trace"] {
        let reply = lab.call("GET", &format!("/v2/sandboxes/{id}/logs?{query}"), "");
        let (status, message) = reply.error();
        assert_eq!(status, 400, "{message}");
        assert!(message.contains(query.split_once('=').unwrap().1), "{message}");
    }
    assert_eq!(lab.call("GET", "/v2/sandboxes/unknown/logs", "").error().0, 404);
}

#[test]
fn a_key_that_may_only_read_sees_no_command_lines_in_logs() {
    let lab = Lab::with(Script::default().on("sh", &[], 0), NewKey::default());
    let id = lab.create(BASE);
    let sandbox = lab.sandboxes.find(&id).unwrap();
    let command = crate::process::Command { program: "sh".to_owned(), ..Default::default() };
    let request = crate::process::StartRequest { command, ..Default::default() };
    let deadline = std::time::Instant::now() + MINUTE;
    let running = sandbox.running().unwrap();
    sandbox.processes().start(&*running, request, deadline).unwrap();
    let field = |scope| {
        let caller = Caller { key: sandbox.key().to_owned(), limits: Limits::default() };
        logs::events(&lab.sandboxes, &caller, &id, scope).unwrap()[1].fields.get("command").cloned()
    };
    assert_eq!(field(Scope::All), Some("sh".to_owned()));
    assert_eq!(field(Scope::Read), None);
}

#[test]
fn what_this_server_does_not_do_is_not_implemented() {
    let lab = Lab::new();
    let id = lab.create(BASE);
    let call = |method, path: &str| lab.call(method, path, "{}").error().0;
    assert_eq!(call("POST", &format!("/sandboxes/{id}/snapshots")), 501);
    assert_eq!(call("POST", &format!("/sandboxes/{id}/fork")), 501);
    assert_eq!(call("GET", "/snapshots"), 501);
    assert_eq!(call("DELETE", "/templates/a%2Fb"), 501);
    assert_eq!(call("POST", "/v3/templates"), 501);
    assert_eq!(call("GET", "/volumes/x"), 501);
    assert_eq!(call("PATCH", &format!("/sandboxes/{id}")), 405);
    assert_eq!(call("GET", "/unknown"), 404);
}

#[test]
fn a_head_that_is_no_http_gets_a_json_error() {
    let lab = Lab::new();
    let reply = lab.send("GET", "/sandboxes", "Content-Length: 1\r\n", "");
    assert_eq!(reply.error().0, 400);
}

#[test]
fn the_description_for_programs_has_the_same_calls_as_the_server() {
    let description: Value =
        serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let methods = paths.iter().flat_map(|(path, methods)| {
        methods
            .as_object()
            .unwrap()
            .keys()
            .map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let described: BTreeSet<String> = methods.collect();
    let routes =
        route::ROUTES.iter().map(|route| format!("{} {}", route.method.name(), route.path));
    let served: BTreeSet<String> = routes.collect();
    assert_eq!(described, served);
}
