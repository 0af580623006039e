//! The platform alone, in a process of its own.

use std::fs;
#[cfg(feature = "postgres")]
use std::fs::Permissions;
use std::net::SocketAddr;
#[cfg(feature = "postgres")]
use std::os::unix::fs::PermissionsExt;

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

#[test]
#[cfg(feature = "postgres")]
fn a_password_on_the_command_line_or_in_a_readable_file_is_rejected() {
    let state = tempfile::tempdir().unwrap();
    let url = "postgresql://me:hunter22@127.0.0.1:1/jobs";
    let file = state.path().join("database");
    fs::write(&file, url).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();

    let typed = runner(state.path(), &["serve", "--database", url]).output().unwrap();
    let name = file.to_str().unwrap();
    let readable = runner(state.path(), &["serve", "--database-file", name]).output().unwrap();

    for (refused, advice) in [(typed, "--database-file"), (readable, "chmod 600")] {
        assert_eq!(refused.status.code(), Some(2));
        let text = stderr(&refused);
        assert!(text.contains(advice) && !text.contains("hunter22"), "{text}");
    }
}

#[test]
#[cfg(feature = "postgres")]
fn an_unreachable_database_is_an_error_without_its_password() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("database");
    fs::write(&file, "host=/nonexistent user=me password=hunter22 dbname=jobs\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();

    let name = file.to_str().unwrap();
    let failed = runner(state.path(), &["serve", "--database-file", name]).output().unwrap();

    let text = stderr(&failed);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text.contains("database `jobs` at /nonexistent"), "{text}");
    assert!(!text.contains("hunter22"), "{text}");
}

#[test]
#[cfg(not(feature = "postgres"))]
fn a_build_without_postgresql_says_so() {
    let state = tempfile::tempdir().unwrap();

    let refused = runner(state.path(), &["serve", "--database", "postgresql://db/x"]).output();

    assert!(stderr(&refused.unwrap()).contains("--features postgres"));
}
