//! How the events of the Codex CLI look to people.
//!
//! A thread has turns, a turn has items: what the agent says, thinks, runs and changes. An item is
//! told when it starts, when it is updated and when it is completed; people see the command at its
//! start, and everything else once it is complete.

use serde_json::Value;

use super::result_lines;

/// An event as lines of text; nothing for one that says nothing to people.
pub(super) fn readable(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    match event["type"].as_str() {
        Some("thread.started") => format!("session {}\n", text(&event["thread_id"])),
        Some("item.started") => started(&event["item"]),
        Some("item.completed") => completed(&event["item"]),
        Some("turn.completed") => {
            let count = |key: &str| event["usage"][key].as_u64().unwrap_or_default();
            let (read, written) = (count("input_tokens"), count("output_tokens"));
            format!("done, {read} tokens read, {written} written\n")
        }
        Some("turn.failed") => format!("failed: {}\n", text(&event["error"]["message"])),
        Some("error") => format!("error: {}\n", text(&event["message"])),
        _ => String::new(),
    }
}

fn started(item: &Value) -> String {
    match (item["type"].as_str(), item["command"].as_str()) {
        (Some("command_execution"), Some(command)) => format!("$ {command}\n"),
        _ => String::new(),
    }
}

fn completed(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().unwrap_or_default();
    match item["type"].as_str() {
        Some("agent_message") => format!("{}\n", text("text")),
        Some("command_execution") => {
            let code = item["exit_code"].as_i64().filter(|code| *code != 0);
            let code = code.map_or_else(String::new, |code| format!("  (exit code {code})\n"));
            result_lines(&item["aggregated_output"]) + &code
        }
        Some("file_change") => {
            let changes = item["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let line = |change: &Value| {
                let part = |key: &str| change[key].as_str().unwrap_or("?").to_owned();
                format!("{} {}\n", part("kind"), part("path"))
            };
            changes.iter().map(line).collect()
        }
        Some("mcp_tool_call") => format!("{}.{}\n", text("server"), text("tool")),
        Some("web_search") => format!("web search: {}\n", text("query")),
        Some("error") => format!("error: {}\n", text("message")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_turn_is_printed_as_text_commands_and_result() {
        let item = |kind: &str, item: Value| json!({"type": kind, "item": item});
        let events = [
            json!({"type": "thread.started", "thread_id": "t1"}),
            json!({"type": "turn.started"}),
            item("item.started", json!({"type": "command_execution", "command": "ls nope"})),
            item(
                "item.completed",
                json!({"type": "command_execution", "command": "ls nope",
                    "aggregated_output": "no such file\n", "exit_code": 2}),
            ),
            item(
                "item.completed",
                json!({"type": "file_change", "changes": [{"path": "a.rs", "kind": "update"}]}),
            ),
            item("item.completed", json!({"type": "agent_message", "text": "Done."})),
            json!({"type": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 2}}),
        ];

        let story: String = events.iter().map(readable).collect();

        let expected = "session t1\n$ ls nope\n  no such file\n  (exit code 2)\nupdate a.rs\nDone.\n\
                        done, 10 tokens read, 2 written\n";
        assert_eq!(story, expected);
    }

    #[test]
    fn a_failed_turn_is_printed_with_its_reason() {
        let event = json!({"type": "turn.failed", "error": {"message": "no credit"}});
        assert_eq!(readable(&event), "failed: no credit\n");
    }
}
