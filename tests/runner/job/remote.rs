//! A platform elsewhere: `runner serve` in a process of its own, and commands that have another state folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Background, runner, stderr, stdout};

/// A platform, and a folder of who uses it from elsewhere.
struct Remote {
    serve: Background,
    url: String,
    state: TempDir,
    elsewhere: TempDir,
}

impl Remote {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let serve = runner(state.path(), &["serve", "--listen", "127.0.0.1:0"]);
        let mut serve = Background::start(serve);
        let url = serve.line().trim_end().strip_prefix("serves ").unwrap().to_owned();
        Self { serve, url, state, elsewhere: tempfile::tempdir().unwrap() }
    }

    /// Makes a token on the platform's host; its file is elsewhere.
    fn token(&self, name: &str, role: &str) -> PathBuf {
        let create = ["token", "create", "--name", name, "--role", role];
        let made = runner(self.state.path(), &create).output().unwrap();
        self.file(name, &stdout(&made), 0o600)
    }

    fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.elsewhere.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn command(&self, token: &Path, arguments: &[&str]) -> Command {
        let mut command = runner(self.elsewhere.path(), arguments);
        command.env("RUNNER_PLATFORM", &self.url).env("RUNNER_TOKEN_FILE", token);
        command
    }

    fn run(&self, token: &Path, arguments: &[&str]) -> Output {
        self.command(token, arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, token: &Path, arguments: &[&str]) -> String {
        let output = self.run(token, arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    }
}

#[test]
fn jobs_are_submitted_with_a_folder_and_seen_and_cancelled_from_elsewhere() {
    let remote = Remote::start();
    let ci = remote.token("ci", "submitter");
    let other = remote.token("other", "submitter");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "x").unwrap();
    let artifact = format!("work={}:/w", folder.path().display());

    let submit = ["job", "submit", "--prompt", "x", "--artifact", &artifact];
    let job = remote.ok(&ci, &submit).trim_end().to_owned();
    let mut follower = Background::start(remote.command(&ci, &["job", "events", "--follow", &job]));
    let waits = follower.remark();
    let listed = remote.ok(&ci, &["job", "ls"]);
    let hidden = remote.run(&other, &["job", "show", &job]);
    remote.ok(&ci, &["job", "cancel", &job]);
    let waited = remote.run(&ci, &["job", "wait", &job]);
    let shown: Value =
        serde_json::from_str(&remote.ok(&ci, &["job", "show", "--json", &job])).unwrap();

    assert!(waits.contains("the job waits"), "{waits}");
    assert!(listed.contains(&job[..8]), "{listed}");
    assert!(stderr(&hidden).contains("no job"), "{}", stderr(&hidden));
    assert_eq!(follower.end().status.code(), Some(0));
    assert_eq!(waited.status.code(), Some(125));
    let ci = json!("ci");
    assert_eq!((&shown["submittedBy"], &shown["cancelledBy"]), (&ci, &ci));
}

#[test]
fn an_operator_manages_tokens_from_elsewhere() {
    let remote = Remote::start();
    let (op, ci) = (remote.token("op", "operator"), remote.token("ci", "submitter"));

    let made = remote.ok(&op, &["token", "create", "--name", "r", "--role", "runner"]);
    let by_submitter = remote.run(&ci, &["token", "ls"]);
    remote.ok(&op, &["token", "revoke", "ci"]);
    let revoked = remote.run(&ci, &["job", "ls"]);

    assert!(made.starts_with("runner_"), "{made}");
    assert!(remote.ok(&op, &["token", "ls"]).contains("r      runner"));
    assert!(stderr(&by_submitter).contains("needs the role operator"), "{}", stderr(&by_submitter));
    let text = stderr(&revoked);
    assert!(text.contains("rejects the token in") && text.contains("ask an operator"), "{text}");
    assert!(text.contains(&remote.url), "{text}");
}

#[test]
fn a_command_line_without_a_usable_token_or_url_is_rejected_with_the_remedy() {
    let remote = Remote::start();
    let good = remote.token("ci", "submitter");
    let readable = remote.file("readable", &fs::read_to_string(&good).unwrap(), 0o644);
    let empty = remote.file("empty", "\n", 0o600);
    let token = good.to_str().unwrap();
    let with = |url: &str, file: &str| {
        let all = ["job", "ls", "--platform", url, "--token-file", file];
        let output = runner(remote.elsewhere.path(), &all).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let without = ["job", "ls", "--platform", &remote.url];

    let cases = [
        (with(&remote.url, readable.to_str().unwrap()), "chmod 600"),
        (with(&remote.url, empty.to_str().unwrap()), "does not have a token"),
        (with("http://platform.example", token), "use https, or --allow-plain-http"),
        (with("platform.example", token), "must be https://HOST"),
    ];
    let missing = runner(remote.elsewhere.path(), &without).output().unwrap();
    let dead = with("http://127.0.0.1:1", token);

    assert_eq!(cases.each_ref().map(|((code, _), _)| *code), [Some(2); 4]);
    let unsaid: Vec<_> = cases.iter().filter(|((_, text), says)| !text.contains(says)).collect();
    assert!(unsaid.is_empty(), "{unsaid:?}");
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("RUNNER_TOKEN_FILE"), "{}", stderr(&missing));
    assert!(dead.1.contains("cannot reach http://127.0.0.1:1: Connection refused"), "{}", dead.1);
}

#[test]
fn no_output_log_or_command_line_has_a_token() {
    let remote = Remote::start();
    let ci = remote.token("ci", "submitter");
    let secret = fs::read_to_string(&ci).unwrap().trim_end().to_owned();
    let trace = |arguments: &[&str]| {
        let mut command = remote.command(&ci, arguments);
        command.env("RUST_LOG", "trace");
        command
    };
    let submitted = trace(&["job", "submit", "--prompt", "x"]).output().unwrap();
    let job = stdout(&submitted).trim_end().to_owned();
    let follower = Background::start(trace(&["job", "events", "--follow", &job]));
    let typed = fs::read(format!("/proc/{}/cmdline", follower.id())).unwrap();
    let cancelled = trace(&["job", "cancel", &job]).output().unwrap();
    let followed = follower.end();
    remote.serve.signal(Signal::SIGTERM);
    let served = remote.serve.end();

    let texts =
        [submitted, cancelled, followed, served].map(|output| stdout(&output) + &stderr(&output));
    assert!(texts.iter().all(|text| !text.contains(&secret)), "{texts:?}");
    assert!(!String::from_utf8_lossy(&typed).contains(&secret));
}
