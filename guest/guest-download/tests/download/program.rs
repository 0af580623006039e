//! The program: its input, exit codes, certificates and messages.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use guest_test::archive::{Entry, tar_gz};
use guest_test::{Authority, Reply, Server};
use serde_json::json;

use crate::harness::Fixture;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-download"));
    command.env_remove("RUST_LOG").env("VM0_DOWNLOAD_OUTAGE_SECS", "0").stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn archive() -> Vec<u8> {
    tar_gz(&[Entry::File("f", b"1", 0o644)])
}

#[test]
fn a_manifest_is_read_from_a_file_or_from_stdin() {
    let server = Server::start(|_| Reply::bytes(archive()));
    let fixture = Fixture::new();
    let manifest = json!({ "storages": [fixture.entry("x", &server.url())] }).to_string();
    fs::write(fixture.path("manifest"), &manifest).unwrap();
    let output = program().arg(fixture.path("manifest")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    fs::remove_dir_all(fixture.path("x")).unwrap();

    let mut child = program().arg("--manifest-stdin").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fixture.text("x/f"), "1");
}

#[test]
fn an_error_is_reported_with_exit_code_1() {
    for arguments in [&[][..], &["--bogus"], &["/nonexistent"], &["a", "b"]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("ERROR"), "{}", stderr(&output));
    }
}

#[test]
fn a_presigned_url_is_never_logged() {
    let server = Server::start(|_| Reply::status(403));
    let fixture = Fixture::new();
    let entries = [
        fixture.entry("x", &format!("{}/a?signature=topsecret", server.url())),
        fixture.entry("y", "https://127.0.0.1:1/b?signature=topsecret"),
        fixture.entry("z", "gopher://topsecret"),
        fixture.entry("u", "http://[topsecret"),
    ];
    let manifest = json!({ "storages": entries }).to_string();
    fs::write(fixture.path("manifest"), manifest).unwrap();
    let output = program().env("RUST_LOG", "trace").arg(fixture.path("manifest")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("HTTP 403") && !text.contains("topsecret"), "{text}");
}

#[test]
fn only_the_certificate_roots_of_the_system_are_trusted() {
    let (known, unknown) = (Authority::new(), Authority::new());
    let server = Server::start_tls(&known.issue(), |_| Reply::bytes(archive()));
    let fixture = Fixture::new();
    known.install(&fixture.path("known.pem"));
    unknown.install(&fixture.path("unknown.pem"));
    let manifest = json!({ "storages": [fixture.entry("x", &server.named_url())] });
    fs::write(fixture.path("manifest"), manifest.to_string()).unwrap();
    let run = |store| {
        let mut command = program();
        command.env_remove("SSL_CERT_DIR").env("SSL_CERT_FILE", fixture.path(store));
        command.arg(fixture.path("manifest")).output().unwrap()
    };

    let refused = run("unknown.pem");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("certificate"), "{}", stderr(&refused));
    let trusted = run("known.pem");
    assert_eq!(trusted.status.code(), Some(0), "{}", stderr(&trusted));
    assert_eq!(fixture.text("x/f"), "1");
}

#[test]
fn operations_are_recorded_for_guest_agent() {
    let server = Server::start(|_| Reply::bytes(archive()));
    let fixture = Fixture::new();
    let manifest = json!({ "artifact": fixture.entry("x", &server.url()) });
    fs::write(fixture.path("manifest"), manifest.to_string()).unwrap();
    let mut command = program();
    command.env("HOME", fixture.path("")).env("VM0_RUN_ID", "r1").arg(fixture.path("manifest"));
    assert!(command.status().unwrap().success());
    let log = fixture.text(".vm0/guest-agent/runs/r1/operations.jsonl");
    let actions: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(actions[0]["action_type"], "artifact_download");
    assert_eq!(
        (&actions[1]["action_type"], &actions[1]["success"]),
        (&"download_total".into(), &true.into())
    );
}
