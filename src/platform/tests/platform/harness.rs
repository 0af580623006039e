//! A platform in a temporary folder and with a database of its own, and the least of an HTTP client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use platform::{
    Claimed, Client, Completion, Config, Job, Platform, RunId, Source, Submission, Wanted,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A platform and its state folder, which outlives it.
pub(crate) struct Host {
    platform: Option<Platform>,
    config: Config,
    pub(crate) dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// With a configuration of its own.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        config.database = crate::store::database();
        config.content = crate::store::content();
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.stop_grace = Duration::from_millis(200);
        change(&mut config);
        Self::of(dir, config)
    }

    /// On a folder that exists.
    pub(crate) fn of(dir: tempfile::TempDir, config: Config) -> Self {
        let platform = Some(Platform::start(config.clone()).unwrap());
        Self { platform, config, dir }
    }

    /// As after a crash: all that is in memory is gone.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.platform = Some(Platform::start(self.config.clone()).unwrap());
    }

    pub(crate) fn stop(&mut self) {
        self.platform.take().unwrap().stop().unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    pub(crate) fn platform(&self) -> &Platform {
        self.platform.as_ref().unwrap()
    }

    pub(crate) fn source(&self) -> Source {
        self.platform().source().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.dir.path())
    }

    pub(crate) fn state(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.platform().addresses()[0]
    }

    pub(crate) fn submit(&self, prompt: &str) -> RunId {
        let submission = Submission { prompt: prompt.into(), ..Submission::default() };
        self.client().submit(&submission).unwrap().run_id
    }

    pub(crate) fn job(&self, run: RunId) -> Job {
        self.client().job(&run.to_string()).unwrap()
    }

    /// A job that a guest works on.
    pub(crate) fn running(&self) -> Guest<'_> {
        let run = self.submit("do it");
        self.claim(run)
    }

    /// A job that has ended with this session.
    pub(crate) fn with_session(&self, session: &str) -> RunId {
        let guest = self.running();
        let hash = guest.history("{}\n");
        let body = json!({"cliAgentType": "claude-code", "cliAgentSessionId": session,
            "cliAgentSessionHistoryHash": hash});
        guest.post("checkpoints", body).ok();
        guest.complete(0).ok();
        guest.run
    }

    pub(crate) fn resume(&self, run: RunId) -> RunId {
        let resume = Some(run);
        let submission = Submission { prompt: "go on".into(), resume, ..Submission::default() };
        self.client().submit(&submission).unwrap().run_id
    }

    /// Claims over HTTP.
    pub(crate) fn claim(&self, run: RunId) -> Guest<'_> {
        let context = self.post_runner(&format!("jobs/{run}/claim"), &json!({})).ok();
        let token = context["sandboxToken"].as_str().unwrap().to_owned();
        Guest { host: self, run, token, context }
    }

    pub(crate) fn post_runner(&self, path: &str, body: &Value) -> Reply {
        let token = self.platform().runner_token();
        self.post(&format!("/api/runners/{path}"), token, body)
    }

    pub(crate) fn poll(&self, runner: &str) -> Reply {
        let group = "test/default";
        self.post_runner(
            "poll",
            &json!({"runnerId": runner, "group": group, "supportedProfiles": ["default"]}),
        )
    }

    pub(crate) fn post(&self, path: &str, token: &str, body: &Value) -> Reply {
        let authorization = format!("Authorization: Bearer {token}\r\n");
        self.send("POST", path, &authorization, body.to_string().as_bytes())
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        self.exchange(&request(&self.address().to_string(), (method, path), headers, body))
    }

    /// Sends bytes, and hears all that is answered.
    pub(crate) fn exchange(&self, request: &[u8]) -> Reply {
        let mut socket = TcpStream::connect(self.address()).unwrap();
        // Who refuses early may not take all of it.
        let _ = socket.write_all(request);
        Reply::read(&mut socket)
    }

    /// Follows a presigned URL.
    pub(crate) fn put(&self, url: &Value, body: &[u8]) -> Reply {
        follow("PUT", url, "", body)
    }

    pub(crate) fn get(&self, url: &Value, headers: &str) -> Reply {
        follow("GET", url, headers, b"")
    }
}

fn request(host: &str, (method, path): (&str, &str), headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Sends a request to a presigned URL: the platform's, or an object store's.
fn follow(method: &str, url: &Value, headers: &str, body: &[u8]) -> Reply {
    let rest = url.as_str().unwrap().strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let mut socket = TcpStream::connect(host).unwrap();
    // Who refuses early may not take all of it.
    let _ = socket.write_all(&request(host, (method, path), headers, body));
    Reply::read(&mut socket)
}

/// Who works on a job, with its token.
pub(crate) struct Guest<'a> {
    pub(crate) host: &'a Host,
    pub(crate) run: RunId,
    pub(crate) token: String,
    pub(crate) context: Value,
}

impl Guest<'_> {
    /// Posts to a webhook, with the run's id in the body.
    pub(crate) fn post(&self, path: &str, body: Value) -> Reply {
        let mut body = body;
        body["runId"] = json!(self.run);
        self.host.post(&format!("/api/webhooks/agent/{path}"), &self.token, &body)
    }

    /// Sends events of these numbers.
    pub(crate) fn events(&self, numbers: &[u32]) -> Reply {
        let event = |number: &u32| json!({"type": "assistant", "sequenceNumber": number});
        self.post("events", json!({"events": numbers.iter().map(event).collect::<Vec<_>>()}))
    }

    pub(crate) fn complete(&self, exit_code: u8) -> Reply {
        self.post("complete", json!({"exitCode": exit_code}))
    }

    /// Uploads a session's history, and returns its hash.
    pub(crate) fn history(&self, text: &str) -> String {
        let hash = sha256(text.as_bytes());
        let announcement = json!({
            "hash": hash, "rawSize": text.len(), "encodedSize": text.len(), "encoding": "identity",
        });
        let prepared = self.post("checkpoints/prepare-history", announcement).ok();
        assert_eq!(prepared["existing"], false);
        self.host.put(&prepared["presignedUrl"], text.as_bytes()).ok();
        hash
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn read(socket: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let end = text.find("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
        let head = text[..end].to_owned();
        let status = head[9..12].parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    /// The body of a reply that must be a good one.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status and code of a refusal.
    #[track_caller]
    pub(crate) fn refused(&self) -> (u16, String) {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert!(body["error"]["message"].is_string());
        (self.status, body["error"]["code"].as_str().unwrap().to_owned())
    }
}

/// A refusal as tests write it.
pub(crate) fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

pub(crate) fn wanted() -> Wanted {
    Wanted { profiles: vec!["default".into()], ..Wanted::default() }
}

/// Claims the next job in this process.
pub(crate) fn take(source: &Source) -> Claimed {
    let offer = source.next(&wanted(), soon()).unwrap().unwrap();
    source.claim(offer.run_id).unwrap().unwrap()
}

pub(crate) fn done(exit_code: u8) -> Completion {
    Completion { exit_code, ..Completion::default() }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All bytes under a folder.
pub(crate) fn contains(folder: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contains(&path, needle));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let has = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            found.extend(has.then(|| path.display().to_string()));
        }
    }
    found
}
