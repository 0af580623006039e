//! The server in `tests/server`, a process of Node's that speaks by Ably's own codec.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ably_subscriber::{Config, Hosts, Timing, TokenError, TokenRequest};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

/// What a token request looks like; the server takes any.
pub(crate) const REQUEST: &str = r#"{"keyName":"app.key:x","timestamp":1,"nonce":"n","mac":"m","capability":"{\"jobs\":[\"subscribe\"]}","unknown":[1]}"#;

pub(crate) struct Server {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::spawn(&[])
    }

    /// One that speaks TLS, at 127.0.0.2.
    pub(crate) fn start_tls(certificate: &Path, key: &Path) -> Self {
        Self::spawn(&[certificate, key])
    }

    fn spawn(arguments: &[&Path]) -> Self {
        let mut process = Command::new("node")
            .arg(installed().join("server.js"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests need node: apt-get install nodejs npm");
        let commands = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let greeting: Value = serde_json::from_str(&line).unwrap();
        let port = greeting["port"].as_u64().unwrap().try_into().unwrap();
        Self { process, pipes: Mutex::new((commands, answers)), port }
    }

    /// See `commands` in `server.js`.
    pub(crate) fn command(&self, command: &Value) -> Value {
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{command}").unwrap();
        let mut line = String::new();
        pipes.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the server has ended")
    }

    pub(crate) fn set(&self, knobs: Value) {
        self.command(&json!({ "op": "set", "knobs": knobs }));
    }

    pub(crate) fn publish(&self, messages: Value) {
        self.command(&json!({ "op": "publish", "messages": messages }));
    }

    /// Publishes a message with that name alone.
    pub(crate) fn say(&self, name: &str) {
        self.publish(json!([{ "name": name }]));
    }

    pub(crate) fn send(&self, frame: Value) {
        self.command(&json!({ "op": "send", "frame": frame }));
    }

    /// `destroy`, `close` or `silence`.
    pub(crate) fn drop_all(&self, way: &str) {
        self.command(&json!({ "op": "drop", "way": way }));
    }

    /// What publishers said before cannot be sent again.
    pub(crate) fn forget(&self) {
        self.command(&json!({ "op": "forget" }));
    }

    /// Waits until that many such things have come in all.
    pub(crate) fn wait(&self, what: &str, count: u64) {
        self.command(&json!({ "op": "wait", "what": what, "count": count }));
    }

    pub(crate) fn count(&self, what: &str) -> u64 {
        self.command(&json!({ "op": "counts" }))[what].as_u64().unwrap_or(0)
    }

    pub(crate) fn seen(&self, what: &str) -> Vec<Value> {
        let seen = self.command(&json!({ "op": "seen", "what": what }));
        seen.as_array().unwrap().clone()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A subscription to `jobs` on this server, whose waits are short and limits long.
    pub(crate) fn config(&self) -> Config {
        self.config_with(request)
    }

    pub(crate) fn config_with(
        &self,
        fetch: impl Fn() -> Result<TokenRequest, TokenError> + Send + Sync + 'static,
    ) -> Config {
        let address = self.address();
        Config::new("jobs", fetch).hosts(Hosts::new(&address, &address).unwrap()).timing(timing())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A token request, at once.
pub(crate) fn request() -> Result<TokenRequest, TokenError> {
    TokenRequest::from_json(REQUEST.as_bytes())
}

/// Waits between attempts are short; what must not happen on a busy machine takes very long.
pub(crate) fn timing() -> Timing {
    let mut timing = Timing::default();
    timing.connect = Duration::from_secs(120);
    timing.attach = Duration::from_secs(120);
    timing.grace = Duration::from_secs(120);
    timing.first_wait = Duration::from_millis(1);
    timing.longest_wait = Duration::from_millis(20);
    timing.detached_wait = Duration::from_millis(1);
    timing
}

/// The server's folder with its packages, of the versions and hashes in its lock file.
pub(crate) fn installed() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Tests of the runner use this as well.
        let source =
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../ably-subscriber/tests/server"));
        let lock = fs::read_to_string(source.join("package-lock.json")).unwrap();
        let program = std::env::current_exe().unwrap();
        let target = program.ancestors().nth(3).unwrap().join("tmp/ably-server");
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let lock_file = fs::File::create(target.with_extension("lock")).unwrap();
        // Other programs of tests install it, too.
        let _alone = Flock::lock(lock_file, FlockArg::LockExclusive).unwrap();
        if fs::read_to_string(target.join("installed")).ok() != Some(lock.clone()) {
            install(source, &target);
            fs::write(target.join("installed"), lock).unwrap();
        }
        for file in ["server.js", "channel.js", "codec.js", "client.js"] {
            fs::copy(source.join(file), target.join(file)).unwrap();
        }
        target
    })
}

/// npm downloads and unpacks; nothing of a package's is run.
fn install(source: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), target.join(file)).unwrap();
    }
    let output = Command::new("npm")
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--omit=optional",
            "--omit=peer",
        ])
        .current_dir(target)
        .output()
        .expect("the tests need npm: apt-get install nodejs npm");
    assert!(output.status.success(), "npm: {}", String::from_utf8_lossy(&output.stderr));
}
