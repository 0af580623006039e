//! The program itself: its input, exit codes, certificates, and what it says.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use guest_test::archive::{Entry, tar_gz};
use guest_test::{Authority, Reply, Server};
use serde_json::json;

use crate::harness::Place;

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
fn a_manifest_is_taken_from_a_file_or_from_stdin() {
    let server = Server::start(|_| Reply::bytes(archive()));
    let place = Place::new();
    let manifest = json!({ "storages": [place.entry("x", &server.url())] }).to_string();
    fs::write(place.path("manifest"), &manifest).unwrap();
    let output = program().arg(place.path("manifest")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    fs::remove_dir_all(place.path("x")).unwrap();

    let mut child = program().arg("--manifest-stdin").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.text("x/f"), "1");
}

#[test]
fn what_is_wrong_is_said_and_is_exit_code_1() {
    for arguments in [&[][..], &["--bogus"], &["/nonexistent"], &["a", "b"]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("ERROR"), "{}", stderr(&output));
    }
}

#[test]
fn a_presigned_url_is_never_said() {
    let server = Server::start(|_| Reply::status(403));
    let place = Place::new();
    let entries = [
        place.entry("x", &format!("{}/a?signature=topsecret", server.url())),
        place.entry("y", "https://127.0.0.1:1/b?signature=topsecret"),
        place.entry("z", "gopher://topsecret"),
        place.entry("u", "http://[topsecret"),
    ];
    let manifest = json!({ "storages": entries }).to_string();
    fs::write(place.path("manifest"), manifest).unwrap();
    let output = program().env("RUST_LOG", "trace").arg(place.path("manifest")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("HTTP 403") && !text.contains("topsecret"), "{text}");
}

#[test]
fn the_systems_certificates_count_and_no_others() {
    let (known, unknown) = (Authority::new(), Authority::new());
    let server = Server::start_tls(&known.vouch(), |_| Reply::bytes(archive()));
    let place = Place::new();
    known.install(&place.path("known.pem"));
    unknown.install(&place.path("unknown.pem"));
    let manifest = json!({ "storages": [place.entry("x", &server.named_url())] });
    fs::write(place.path("manifest"), manifest.to_string()).unwrap();
    let run = |store| {
        let mut command = program();
        command.env_remove("SSL_CERT_DIR").env("SSL_CERT_FILE", place.path(store));
        command.arg(place.path("manifest")).output().unwrap()
    };

    let refused = run("unknown.pem");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("certificate"), "{}", stderr(&refused));
    let trusted = run("known.pem");
    assert_eq!(trusted.status.code(), Some(0), "{}", stderr(&trusted));
    assert_eq!(place.text("x/f"), "1");
}

#[test]
fn what_was_done_is_noted_for_the_runs_agent() {
    let server = Server::start(|_| Reply::bytes(archive()));
    let place = Place::new();
    let manifest = json!({ "artifact": place.entry("x", &server.url()) });
    fs::write(place.path("manifest"), manifest.to_string()).unwrap();
    let mut command = program();
    command.env("HOME", place.path("")).env("VM0_RUN_ID", "r1").arg(place.path("manifest"));
    assert!(command.status().unwrap().success());
    let log = place.text(".vm0/guest-agent/runs/r1/operations.jsonl");
    let actions: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(actions[0]["action_type"], "artifact_download");
    assert_eq!(
        (&actions[1]["action_type"], &actions[1]["success"]),
        (&"download_total".into(), &true.into())
    );
}
