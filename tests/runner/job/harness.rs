//! A platform in a temporary folder, the program that asks it, and the least of a guest.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use platform::{Claimed, Client, Completion, Config, Job, Platform, RunId, Source, Wanted};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The program, asking the platform of a state folder.
pub(crate) fn runner(state: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.arg("--state-dir").arg(state).args(arguments).stdin(Stdio::null());
    command.env_remove("RUST_LOG");
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Each line as JSON.
pub(crate) fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A platform, and a scripted runner in the same process.
pub(crate) struct Host {
    source: Source,
    platform: Platform,
    dir: TempDir,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// One whose folder there was before.
    pub(crate) fn start_in(dir: TempDir) -> Self {
        let mut config = Config::new(dir.path());
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.stop_grace = Duration::from_millis(200);
        let platform = Platform::start(config).unwrap();
        Self { source: platform.source().unwrap(), platform, dir }
    }

    pub(crate) fn state(&self) -> &Path {
        self.dir.path()
    }

    /// Stops serving; the folder stays.
    pub(crate) fn stop(self) -> TempDir {
        drop(self.source);
        self.platform.stop().unwrap();
        self.dir
    }

    pub(crate) fn job(&self, run: &str) -> Job {
        Client::new(self.state()).job(run).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        runner(self.state(), arguments)
    }

    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it, and returns what it printed; it must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[impl AsRef<OsStr>]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    }

    /// Runs it beside the test.
    pub(crate) fn begin(&self, arguments: &[impl AsRef<OsStr>]) -> Background {
        Background::start(self.command(arguments))
    }

    /// Submits a job, and returns its id.
    #[track_caller]
    pub(crate) fn submit(&self, more: &[&str]) -> String {
        let all = [&["job", "submit", "--prompt", "do it"], more].concat();
        self.ok(&all).trim_end().to_owned()
    }

    /// The next job, as soon as there is one.
    pub(crate) fn take(&self) -> Guest<'_> {
        let wanted = Wanted { profiles: vec!["default".into()], ..Wanted::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        let offer = self.source.next(&wanted, deadline).unwrap().expect("no job came");
        Guest { host: self, claimed: self.source.claim(offer.run_id).unwrap().unwrap() }
    }

    /// Sends a heartbeat of a runner in another process.
    pub(crate) fn heartbeat(&self, beat: &Value) {
        let mut socket = TcpStream::connect(self.platform.addresses()[0]).unwrap();
        let (token, body) = (self.platform.runner_token(), beat.to_string());
        let request = format!(
            "POST /api/runners/heartbeat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }

    /// The guest of a job that the previous platform of this folder handed out.
    pub(crate) fn again(&self, claimed: Claimed) -> Guest<'_> {
        Guest { host: self, claimed }
    }

    /// What is to be cancelled, as soon as there is something.
    pub(crate) fn cancelled(&self) -> Vec<RunId> {
        loop {
            let cancelled = self.source.cancelled().unwrap();
            if !cancelled.is_empty() {
                return cancelled;
            }
            self.source.notifications().recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }
}

/// Who works on a job.
pub(crate) struct Guest<'a> {
    host: &'a Host,
    claimed: Claimed,
}

impl Guest<'_> {
    pub(crate) fn run(&self) -> String {
        self.claimed.run_id.to_string()
    }

    /// What it knows of the job, to go on after a restart.
    pub(crate) fn into_claimed(self) -> Claimed {
        self.claimed
    }

    pub(crate) fn context(&self) -> &Value {
        &self.claimed.context
    }

    /// Posts to a webhook, with the run's id in the body.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, mut body: Value) -> Value {
        body["runId"] = json!(self.claimed.run_id);
        let address = self.host.platform.addresses()[0];
        let token = self.claimed.context["sandboxToken"].as_str().unwrap();
        let path = format!("/api/webhooks/agent/{path}");
        let reply = send(address, "POST", &path, Some(token), body.to_string().as_bytes());
        serde_json::from_slice(&reply).unwrap()
    }

    /// Sends what an agent says, as event of that number.
    pub(crate) fn says(&self, number: u32, text: &str) {
        let content = json!([{"type": "text", "text": text}]);
        self.event(json!({"type": "assistant", "sequenceNumber": number,
            "message": {"content": content}}));
    }

    pub(crate) fn event(&self, event: Value) {
        self.post("events", json!({"events": [event]}));
    }

    pub(crate) fn complete(&self, exit_code: u8, error: Option<&str>) {
        let error = error.map(str::to_owned);
        let completion = Completion { exit_code, error, ..Completion::default() };
        self.host.source.complete(&self.claimed, completion).unwrap();
    }

    /// Follows a presigned URL.
    fn put(&self, url: &Value, body: &[u8]) {
        let address = self.host.platform.addresses()[0];
        let url = url.as_str().unwrap();
        let path = url.strip_prefix(&format!("http://{address}")).unwrap();
        send(address, "PUT", path, None, body);
    }

    /// Makes a checkpoint in which each artifact has one of these versions.
    pub(crate) fn checkpoint(&self, artifacts: &[(&Value, &str)]) {
        let history = "{}\n";
        let hash = sha256(history.as_bytes());
        let prepared = self.post(
            "checkpoints/prepare-history",
            json!({"hash": hash, "rawSize": history.len(), "encodedSize": history.len(),
                "encoding": "identity"}),
        );
        if prepared["existing"] == false {
            self.put(&prepared["presignedUrl"], history.as_bytes());
        }
        let snapshot = |(mount, version): &(&Value, &str)| json!({"name": mount["name"], "version": version, "mountPath": mount["mountPath"]});
        let snapshots: Vec<_> = artifacts.iter().map(snapshot).collect();
        self.post(
            "checkpoints",
            json!({"cliAgentType": "", "cliAgentSessionId": "session-1",
                "cliAgentSessionHistoryHash": hash, "artifactSnapshots": snapshots}),
        );
    }

    /// Uploads an archive as a new version of an artifact, and returns the version.
    pub(crate) fn upload(&self, mount: &Value, archive: &[u8]) -> String {
        let files = json!([{"path": "a", "hash": sha256(archive), "size": 1}]);
        let mut body = json!({"storageId": mount["storageId"], "files": files});
        let prepared = self.post("storages/prepare", body.clone());
        let manifest =
            json!({"version": 1, "files": files, "createdAt": "2026-01-01T00:00:00.000Z"});
        self.put(&prepared["uploads"]["archive"]["presignedUrl"], archive);
        let manifest = manifest.to_string().into_bytes();
        self.put(&prepared["uploads"]["manifest"]["presignedUrl"], &manifest);
        body["versionId"] = prepared["versionId"].clone();
        self.post("storages/commit", body);
        prepared["versionId"].as_str().unwrap().to_owned()
    }

    /// The artifacts that the job was given.
    pub(crate) fn mounts(&self) -> &[Value] {
        self.context()["storageManifest"]["storageMounts"].as_array().unwrap()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks over HTTP, and returns the body of an answer that must be a good one.
#[track_caller]
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    let authorization =
        token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\
         Content-Length: {length}\r\n\r\n"
    );
    socket.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&reply[..end]).into_owned();
    let body = reply.split_off(end + 4);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{}", String::from_utf8_lossy(&body));
    body
}

/// The program, running beside the test. Dropping it kills it.
pub(crate) struct Background {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Background {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Waits for its next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Waits for the next line on its standard error.
    pub(crate) fn remark(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for its end, and returns all that was not read yet.
    pub(crate) fn end(mut self) -> Output {
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        self.stdout.read_to_end(&mut stdout).unwrap();
        self.stderr.read_to_end(&mut stderr).unwrap();
        Output { status: self.child.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
