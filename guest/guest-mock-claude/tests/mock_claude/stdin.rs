//! Prompts on stdin.

use std::process::Stdio;

use serde_json::json;

use crate::harness::{Fixture, MESSAGES, Running};

#[test]
fn a_message_of_text_is_a_prompt() {
    let message =
        json!({"type": "user", "message": {"role": "user", "content": "echo $((6 * 7))"}});
    let run = Fixture::new().run_with_stdin(&MESSAGES, &format!("{message}\n"));
    assert_eq!(run.result()["result"], "42");
    assert_eq!(run.code, Some(0));
}

#[test]
fn the_text_blocks_of_a_message_are_the_lines_of_a_prompt() {
    let message = json!({"type": "user", "message": {"role": "user", "content": [
        {"type": "text", "text": "number=7"},
        {"type": "image", "source": {}},
        {"type": "text", "text": "echo $number"},
    ]}});
    let run = Fixture::new().run_with_stdin(&MESSAGES, &message.to_string());
    assert_eq!(run.result()["result"], "7");
}

#[test]
fn each_message_is_a_turn_of_one_session() {
    let one = json!({"type": "user", "message": {"role": "user", "content": "echo one"}});
    let two = json!({"type": "user", "message": {"role": "user", "content": "echo two; exit 3"}});
    let run = Fixture::new().run_with_stdin(&MESSAGES, &format!("{one}\n\n{two}\n"));
    let events = run.events();
    let results: Vec<_> = events.iter().filter(|event| event["type"] == "result").collect();
    assert_eq!(results[0]["result"], "one");
    assert_eq!(results[1]["result"], "two");
    assert_eq!(results[0]["session_id"], results[1]["session_id"]);
    assert_eq!(run.code, Some(3));
}

#[test]
fn a_message_is_answered_while_stdin_is_open() {
    let fixture = Fixture::new();
    let mut running = Running::start(fixture.command(&MESSAGES).stdin(Stdio::piped()));
    running.send(r#"{"type":"user","message":{"role":"user","content":"echo now"}}"#);
    assert_eq!(running.wait_for("result")["result"], "now");
    running.stdin = None;
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn lines_of_other_types_are_ignored() {
    let lines = concat!(
        r#"{"type":"control_request","request_id":"1","request":{"subtype":"initialize"}}"#,
        "\n",
        r#"{"type":"user","message":{"role":"user","content":"echo found"}}"#,
    );
    let run = Fixture::new().run_with_stdin(&MESSAGES, lines);
    assert_eq!(run.result()["result"], "found");
    assert_eq!(run.events().len(), 5);
}

#[test]
fn the_error_of_an_invalid_message_has_its_line_number() {
    let lines = concat!(
        r#"{"type":"user","message":{"role":"user","content":"true"}}"#,
        "\n",
        "garbage\n",
    );
    let run = Fixture::new().run_with_stdin(&MESSAGES, lines);
    assert!(run.stderr.starts_with("error: cannot read line 2 of stdin as a message: "));
    assert_eq!(run.code, Some(1));
}

#[test]
fn plain_text_on_stdin_is_one_prompt() {
    let run = Fixture::new().run_with_stdin(&["--print"], "echo one\necho two\n");
    assert_eq!(run.stdout, "one\ntwo\n");
}

#[test]
fn a_positional_argument_takes_precedence_over_stdin() {
    let run = Fixture::new().run_with_stdin(&["echo argument"], "echo stdin\n");
    assert_eq!(run.stdout, "argument\n");
}

#[test]
fn no_message_at_all_is_an_error() {
    let run = Fixture::new().run(&MESSAGES);
    assert_eq!(run.stderr, "error: no prompt: pass one as an argument or on stdin\n");
    assert_eq!(run.code, Some(1));
}
