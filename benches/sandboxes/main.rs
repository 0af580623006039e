//! Sandboxes over the HTTP API against the runner's own commands and the guest link, in turns, in one run.
//!
//! `cargo bench -p runner --bench sandboxes`, as root, with the image `base` in `$RUNNER_TEST_STATE_DIR`
//! (or `/var/lib/sandbox-runner`) and the SDK where `scripts/setup` installs it. `sdk.py` has the parts that
//! go through the Python SDK.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vsock_host::{Guest, Reactor};
use vsock_proto::Exec;

const ROUNDS: usize = 60;
const PYTHON: &str = "/usr/local/lib/sandbox-runner/sdk/bin/python";

/// One warm VM: a sandbox takes it, and the next one waits for its replacement.
const CONFIG: &str = "
[sandboxes]
listen = [\"127.0.0.1:0\"]
[profiles.base]
image = \"base\"
vcpus = 1
memory_mib = 512
warm = 1
";

fn main() {
    let state = std::env::var_os("RUNNER_TEST_STATE_DIR");
    let state = state.map_or("/var/lib/sandbox-runner".into(), PathBuf::from);
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), CONFIG).unwrap();
    let server = Server::start(&state, config.path());
    round_trips(&server, &state);
    through_the_sdk(&server, &state);
}

/// A command's round trip: a call on a connection that is kept, against the link itself.
fn round_trips(server: &Server, state: &Path) {
    let (sandbox, token) = server.create();
    let folder = folder_of(state, &sandbox);
    let reactor = Reactor::start().unwrap();
    let guest = reactor.connect(&folder.join("control.sock"), soon()).unwrap();
    let mut connection = Connection::open(&server.address);
    let (mut api, mut link) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        api.push(time(|| connection.run_true(&sandbox, &token)));
        link.push(time(|| run_true(&guest)));
    }
    server.call("DELETE", &format!("/sandboxes/{sandbox}"), "");
    let (api, link) = (median(api) * 1e3, median(link) * 1e3);
    println!("command, p50: API {api:.2} ms, link {link:.2} ms, difference {:.2} ms", api - link);
}

fn through_the_sdk(server: &Server, state: &Path) {
    let url = format!("http://{}", server.address);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/sandboxes/sdk.py");
    let status = Command::new(PYTHON)
        .arg("-B")
        .arg(script)
        .env("RUNNER", env!("CARGO_BIN_EXE_runner"))
        .env("RUNNER_STATE_DIR", state)
        .env("SERVER_LOG", server.log.path())
        .envs([("E2B_API_URL", &url), ("E2B_SANDBOX_URL", &url), ("E2B_API_KEY", &server.key)])
        .status();
    assert!(status.unwrap().success());
}

/// `runner sandbox serve`. Dropping it ends it.
struct Server {
    child: Child,
    log: tempfile::NamedTempFile,
    address: String,
    key: String,
}

impl Server {
    fn start(state: &Path, config: &Path) -> Self {
        let key = runner(state).args(["--quiet", "key", "create"]).output().unwrap();
        let key = String::from_utf8(key.stdout).unwrap().trim().to_owned();
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut serve = runner(state);
        serve.args(["sandbox", "serve", "--config"]).arg(config).env("RUST_LOG", "service=debug");
        serve.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        let mut child = serve.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("http://").expect(&line).1.to_owned();
        Self { child, log, address, key }
    }

    /// The id and the token of a new sandbox.
    fn create(&self) -> (String, String) {
        let reply = self.call("POST", "/v2/sandboxes", r#"{"templateID":"base","timeout":600}"#);
        let field = |name: &str| {
            let (_, rest) = reply.split_once(&format!("\"{name}\":\"")).expect(&reply);
            rest.split('"').next().unwrap().to_owned()
        };
        (field("sandboxID"), field("envdAccessToken"))
    }

    fn call(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (key, length) = (&self.key, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nX-API-Key: {key}\r\nConnection: close\r\n"
        );
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }
}

/// A connection that is kept.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Starts `true`, and reads its stream of events to the end.
    fn run_true(&mut self, sandbox: &str, token: &str) {
        let json = r#"{"process":{"cmd":"true","args":[],"envs":{}}}"#;
        let mut body = vec![0];
        body.extend((json.len() as u32).to_be_bytes());
        body.extend(json.as_bytes());
        let mut request = format!(
            "POST /process.Process/Start HTTP/1.1\r\nHost: h\r\nX-Access-Token: {token}\r\n\
             E2b-Sandbox-Id: {sandbox}\r\n\
             E2b-Sandbox-Port: 49983\r\nConnect-Protocol-Version: 1\r\n\
             Content-Type: application/connect+json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        self.0.get_mut().write_all(&request).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
        }
        let mut events = Vec::new();
        while self.chunk(&mut events) {}
        assert!(String::from_utf8_lossy(&events).contains("\"exited\":true"));
    }

    /// Appends a chunk; `false` after the last one.
    fn chunk(&mut self, to: &mut Vec<u8>) -> bool {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let size = u64::from_str_radix(line.trim(), 16).unwrap();
        (&mut self.0).take(size + 2).read_to_end(to).unwrap();
        size > 0
    }
}

fn run_true(guest: &Guest) {
    let exec = Exec { argv: vec![b"true".to_vec().into()], ..Exec::default() };
    guest.exec(exec, soon()).unwrap().wait(Some(soon())).unwrap();
}

fn runner(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.arg("--state-dir").arg(state).stdin(Stdio::null());
    command
}

fn folder_of(state: &Path, sandbox: &str) -> PathBuf {
    let vms = std::fs::read_dir(state.join("vms")).unwrap().flatten();
    let is_it = |folder: &PathBuf| {
        std::fs::read_to_string(folder.join("vm.json")).is_ok_and(|json| json.contains(sandbox))
    };
    vms.map(|entry| entry.path()).find(is_it).expect("the sandbox's folder")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
