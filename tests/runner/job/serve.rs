//! The platform alone, in a process of its own.

use std::fs;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Background, runner, send, stderr, stdout};

#[test]
fn a_remote_runner_gets_jobs_with_the_token_of_the_printed_file() {
    let state = tempfile::tempdir().unwrap();
    let mut serve = Background::start(runner(state.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let line = serve.line();
    let address: SocketAddr =
        line.trim_end().strip_prefix("serves http://").unwrap().parse().unwrap();
    let line = serve.line();
    let file = line.trim_end().strip_prefix("runner token in ").unwrap().to_owned();
    let token = fs::read_to_string(&file).unwrap();
    let submitted = runner(state.path(), &["job", "submit", "--prompt", "do it"]).output().unwrap();
    assert_eq!(stderr(&submitted), "runner: the job waits: no runner is there\n");

    let poll = json!({"runnerId": "01234567-89ab-cdef-0123-456789abcdef", "group": "a/b",
        "supportedProfiles": ["default"]});
    let path = "/api/runners/poll";
    let reply = send(address, "POST", path, Some(token.trim()), poll.to_string().as_bytes());
    serve.signal(Signal::SIGTERM);
    let output = serve.end();

    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply["job"]["runId"], json!(stdout(&submitted).trim_end()));
    assert_eq!(output.status.code(), Some(0));
    let told = stderr(&output);
    assert!(told.lines().count() == 1 && told.ends_with("signal=SIGTERM\n"), "{told}");
    assert!(!stdout(&output).contains(token.trim()));
}

#[test]
fn a_second_platform_on_a_state_folder_is_rejected() {
    let state = tempfile::tempdir().unwrap();
    let mut serve = Background::start(runner(state.path(), &["serve", "--listen", "127.0.0.1:0"]));
    serve.line();

    let second = runner(state.path(), &["serve", "--listen", "127.0.0.1:0"]).output().unwrap();

    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another process serves"), "{}", stderr(&second));
    serve.signal(Signal::SIGINT);
    assert_eq!(serve.end().status.code(), Some(0));
}
