//! The history file and resuming a session.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::harness::{EVENTS, Fixture, Running};

#[test]
fn the_history_holds_prompt_messages_and_tool_result() {
    let fixture = Fixture::new();
    let history = fixture.history(&fixture.ask("echo hi").session());
    let types: Vec<_> = history.iter().map(|record| record["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["user", "assistant", "assistant", "user"]);
    assert_eq!(history[0]["message"], json!({"role": "user", "content": "echo hi"}));
    assert_eq!(history[3]["message"]["content"][0]["content"], "hi");
}

#[test]
fn each_record_names_the_one_before_as_its_parent() {
    let fixture = Fixture::new();
    let history = fixture.history(&fixture.ask("true").session());
    let parents: Vec<_> = history.iter().map(|record| record["parentUuid"].as_str()).collect();
    let mut uuids: Vec<_> = history.iter().map(|record| record["uuid"].as_str()).collect();
    uuids.pop();
    uuids.insert(0, None);
    assert_eq!(parents, uuids);
}

#[test]
fn a_record_has_the_uuid_of_its_event() {
    let fixture = Fixture::new();
    let run = fixture.ask("true");
    assert_eq!(fixture.history(&run.session())[1]["uuid"], run.events()[1]["uuid"]);
}

#[test]
fn a_record_has_session_directory_and_version() {
    let fixture = Fixture::new();
    let session = fixture.ask("true").session();
    let record = &fixture.history(&session)[0];
    assert_eq!(record["sessionId"], session);
    assert_eq!(record["cwd"], fixture.work().to_str().unwrap());
    assert_eq!(record["version"], "0.0.0");
}

#[test]
fn a_timestamp_is_utc_with_milliseconds() {
    let fixture = Fixture::new();
    let record = fixture.history(&fixture.ask("date -u +%FT%TZ").session());
    let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    let timestamp = record[3]["timestamp"].as_str().unwrap();
    assert_eq!(shape(timestamp), "0000-00-00T00:00:00.000Z");
    let date = record[3]["message"]["content"][0]["content"].as_str().unwrap();
    assert!(timestamp[..19] >= date[..19], "{timestamp} is before {date}");
}

#[test]
fn only_the_owner_may_read_the_history() {
    let fixture = Fixture::new();
    let path = fixture.history_path(&fixture.ask("true").session());
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_history_is_complete_when_the_result_comes() {
    let fixture = Fixture::new();
    let arguments = [&EVENTS[..], &["@hang-after-result"]].concat();
    let mut running = Running::start(&mut fixture.command(&arguments));
    let result = running.wait_for("result");
    let history = fixture.history(result["session_id"].as_str().unwrap());
    assert_eq!(history[1]["message"]["content"][0]["text"], result["result"]);
}

#[test]
fn resume_keeps_the_session_id() {
    let fixture = Fixture::new();
    let session = fixture.ask("true").session();
    let run = fixture.run(&[&EVENTS[..], &["--resume", &session, "true"]].concat());
    assert_eq!(run.events()[0]["session_id"], session);
}

#[test]
fn resume_appends_to_the_history() {
    let fixture = Fixture::new();
    let session = fixture.ask("echo one").session();
    let before = fs::read_to_string(fixture.history_path(&session)).unwrap();
    fixture.run(&["--resume", &session, "echo two"]);
    let after = fs::read_to_string(fixture.history_path(&session)).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(fixture.history(&session)[4]["message"]["content"], "echo two");
}

#[test]
fn the_first_record_after_a_resume_has_the_last_before_it_as_parent() {
    let fixture = Fixture::new();
    let session = fixture.ask("true").session();
    let path = fixture.history_path(&session);
    let without_uuid = "{\"type\":\"last-prompt\",\"lastPrompt\":\"true\"}\n";
    fs::write(&path, fs::read_to_string(&path).unwrap() + without_uuid).unwrap();
    fixture.run(&["--resume", &session, "true"]);
    let history = fixture.history(&session);
    assert_eq!(history[5]["parentUuid"], history[3]["uuid"]);
}

#[test]
fn a_history_without_its_last_line_end_gets_it_on_resume() {
    let fixture = Fixture::new();
    let session = fixture.ask("true").session();
    let path = fixture.history_path(&session);
    fs::write(&path, fs::read_to_string(&path).unwrap().trim_end()).unwrap();
    fixture.run(&["--resume", &session, "true"]);
    assert_eq!(fixture.history(&session).len(), 8);
}

#[test]
fn resume_of_an_unknown_session_is_an_error() {
    let fixture = Fixture::new();
    let session = "01234567-89ab-4def-8123-456789abcdef";
    let run = fixture.run(&["--resume", session, "true"]);
    let expected = format!("error: no conversation found with session id {session}");
    assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
}

#[test]
fn a_session_id_that_is_a_path_is_rejected() {
    let run = Fixture::new().run(&["--resume", "../other", "true"]);
    assert_eq!(run.stderr, "error: --resume must be the id of a session, not \"../other\"\n");
    assert_eq!(run.code, Some(1));
}

#[test]
fn without_a_home_there_is_an_error() {
    let fixture = Fixture::new();
    let output = fixture.command(&["true"]).env_remove("HOME").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: HOME is not set"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}
