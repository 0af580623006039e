//! The events of a turn and the formats of stdout.

use std::collections::HashSet;

use serde_json::json;

use crate::harness::Fixture;

#[test]
fn a_turn_is_init_text_tool_use_tool_result_and_result() {
    let events = Fixture::new().ask("echo hi").events();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["system", "assistant", "assistant", "user", "result"]);
}

#[test]
fn the_init_event_has_directory_tools_and_model() {
    let fixture = Fixture::new();
    let init = &fixture.ask("true").events()[0];
    assert_eq!(init["subtype"], "init");
    assert_eq!(init["cwd"], fixture.work().to_str().unwrap());
    assert_eq!(init["tools"], json!(["Bash"]));
    assert_eq!(init["model"], "mock-claude");
}

#[test]
fn the_first_message_says_that_a_command_is_executed() {
    let message = &Fixture::new().ask("true").events()[1]["message"];
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["content"], json!([{"type": "text", "text": "Executing command..."}]));
}

#[test]
fn the_tool_use_names_bash_and_the_command() {
    let content = &Fixture::new().ask("echo hi").events()[2]["message"]["content"];
    let tool_use = json!([{
        "type": "tool_use", "id": "toolu_mock_001", "name": "Bash", "input": {"command": "echo hi"},
    }]);
    assert_eq!(*content, tool_use);
}

#[test]
fn the_tool_result_holds_the_output() {
    let message = &Fixture::new().ask("echo hi").events()[3]["message"];
    assert_eq!(message["role"], "user");
    let tool_result = json!([{
        "type": "tool_result", "tool_use_id": "toolu_mock_001", "content": "hi", "is_error": false,
    }]);
    assert_eq!(message["content"], tool_result);
}

#[test]
fn the_result_of_a_success_counts_no_cost_and_no_tokens() {
    let result = Fixture::new().ask("echo hi").result();
    assert_eq!(result["subtype"], "success");
    assert_eq!(result["is_error"], false);
    assert_eq!(result["num_turns"], 1);
    assert_eq!(result["result"], "hi");
    assert_eq!(result["total_cost_usd"], 0);
    assert_eq!(result["usage"]["input_tokens"], 0);
    assert!(result["duration_ms"].is_u64());
}

#[test]
fn a_failed_command_is_an_error_in_tool_result_and_result() {
    let run = Fixture::new().ask("echo broken; exit 7");
    assert_eq!(run.events()[3]["message"]["content"][0]["is_error"], true);
    assert_eq!(run.result()["subtype"], "error");
    assert_eq!(run.result()["is_error"], true);
    assert_eq!(run.result()["result"], "broken");
}

#[test]
fn all_events_have_the_session_id_of_the_init_event() {
    let events = Fixture::new().ask("true").events();
    let sessions: HashSet<_> = events.iter().map(|event| event["session_id"].as_str()).collect();
    assert_eq!(sessions, HashSet::from([events[0]["session_id"].as_str()]));
    assert!(events[0]["session_id"].is_string());
}

#[test]
fn each_event_has_a_uuid_of_its_own() {
    let events = Fixture::new().ask("true").events();
    let uuids: HashSet<_> = events.iter().map(|event| event["uuid"].as_str().unwrap()).collect();
    assert_eq!(uuids.len(), events.len());
}

#[test]
fn a_new_session_has_a_random_id_of_version_4() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.ask("true").session(), fixture.ask("true").session());
    assert_ne!(first, second);
    assert_eq!((first.len(), &first[14..15]), (36, "4"));
}

#[test]
fn the_text_format_prints_the_result_only() {
    let run = Fixture::new().run(&["--print", "echo hi"]);
    assert_eq!(run.stdout, "hi\n");
}

#[test]
fn the_text_format_prints_nothing_for_an_empty_result() {
    let run = Fixture::new().run(&["--print", "true"]);
    assert_eq!(run.stdout, "");
}

#[test]
fn the_json_format_prints_the_result_event_only() {
    let run = Fixture::new().run(&["--print", "--output-format", "json", "echo hi"]);
    assert_eq!(run.events().len(), 1);
    assert_eq!(run.result()["type"], "result");
    assert_eq!(run.result()["result"], "hi");
}
