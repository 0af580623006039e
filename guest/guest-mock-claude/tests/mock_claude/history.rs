//! The history file, and going on with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::harness::{EVENTS, Place, Running};

#[test]
fn the_history_holds_prompt_messages_and_tool_result() {
    let place = Place::new();
    let history = place.history(&place.ask("echo hi").session());
    let types: Vec<_> = history.iter().map(|record| record["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["user", "assistant", "assistant", "user"]);
    assert_eq!(history[0]["message"], json!({"role": "user", "content": "echo hi"}));
    assert_eq!(history[3]["message"]["content"][0]["content"], "hi");
}

#[test]
fn each_record_names_the_one_before_as_its_parent() {
    let place = Place::new();
    let history = place.history(&place.ask("true").session());
    let parents: Vec<_> = history.iter().map(|record| record["parentUuid"].as_str()).collect();
    let mut uuids: Vec<_> = history.iter().map(|record| record["uuid"].as_str()).collect();
    uuids.pop();
    uuids.insert(0, None);
    assert_eq!(parents, uuids);
}

#[test]
fn a_record_has_the_uuid_of_its_event() {
    let place = Place::new();
    let run = place.ask("true");
    assert_eq!(place.history(&run.session())[1]["uuid"], run.events()[1]["uuid"]);
}

#[test]
fn a_record_tells_session_directory_and_version() {
    let place = Place::new();
    let session = place.ask("true").session();
    let record = &place.history(&session)[0];
    assert_eq!(record["sessionId"], session);
    assert_eq!(record["cwd"], place.work().to_str().unwrap());
    assert_eq!(record["version"], "0.0.0");
}

#[test]
fn a_timestamp_is_utc_with_milliseconds() {
    let place = Place::new();
    let record = place.history(&place.ask("date -u +%FT%TZ").session());
    let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    let timestamp = record[3]["timestamp"].as_str().unwrap();
    assert_eq!(shape(timestamp), "0000-00-00T00:00:00.000Z");
    let date = record[3]["message"]["content"][0]["content"].as_str().unwrap();
    assert!(timestamp[..19] >= date[..19], "{timestamp} is before {date}");
}

#[test]
fn only_the_owner_may_read_the_history() {
    let place = Place::new();
    let path = place.history_path(&place.ask("true").session());
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_history_is_complete_when_the_result_comes() {
    let place = Place::new();
    let arguments = [&EVENTS[..], &["@hang-after-result"]].concat();
    let mut running = Running::start(&mut place.command(&arguments));
    let result = running.wait_for("result");
    let history = place.history(result["session_id"].as_str().unwrap());
    assert_eq!(history[1]["message"]["content"][0]["text"], result["result"]);
}

#[test]
fn resume_keeps_the_session_id() {
    let place = Place::new();
    let session = place.ask("true").session();
    let run = place.run(&[&EVENTS[..], &["--resume", &session, "true"]].concat());
    assert_eq!(run.events()[0]["session_id"], session);
}

#[test]
fn resume_appends_to_the_history() {
    let place = Place::new();
    let session = place.ask("echo one").session();
    let before = fs::read_to_string(place.history_path(&session)).unwrap();
    place.run(&["--resume", &session, "echo two"]);
    let after = fs::read_to_string(place.history_path(&session)).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(place.history(&session)[4]["message"]["content"], "echo two");
}

#[test]
fn the_first_record_after_a_resume_has_the_last_before_it_as_parent() {
    let place = Place::new();
    let session = place.ask("true").session();
    let path = place.history_path(&session);
    let without_uuid = "{\"type\":\"last-prompt\",\"lastPrompt\":\"true\"}\n";
    fs::write(&path, fs::read_to_string(&path).unwrap() + without_uuid).unwrap();
    place.run(&["--resume", &session, "true"]);
    let history = place.history(&session);
    assert_eq!(history[5]["parentUuid"], history[3]["uuid"]);
}

#[test]
fn a_history_without_its_last_line_end_gets_it_on_resume() {
    let place = Place::new();
    let session = place.ask("true").session();
    let path = place.history_path(&session);
    fs::write(&path, fs::read_to_string(&path).unwrap().trim_end()).unwrap();
    place.run(&["--resume", &session, "true"]);
    assert_eq!(place.history(&session).len(), 8);
}

#[test]
fn resume_of_an_unknown_session_is_an_error() {
    let place = Place::new();
    let session = "01234567-89ab-4def-8123-456789abcdef";
    let run = place.run(&["--resume", session, "true"]);
    let expected = format!("error: no conversation found with session id {session}");
    assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
    assert_eq!(run.code, Some(1));
}

#[test]
fn a_session_id_that_leaves_the_folder_is_refused() {
    let run = Place::new().run(&["--resume", "../other", "true"]);
    assert_eq!(run.stderr, "error: --resume takes the id of a session, not \"../other\"\n");
    assert_eq!(run.code, Some(1));
}

#[test]
fn without_a_home_there_is_an_error() {
    let place = Place::new();
    let output = place.command(&["true"]).env_remove("HOME").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: HOME is not set"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}
