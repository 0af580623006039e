//! The fields of an event that the run depends on: the session, tool calls, the result.
//!
//! The CLI's format is not trusted: a field of an unexpected type counts as absent.

use serde::Deserialize;

/// The fields of an event that the run depends on.
#[derive(Debug, Default)]
pub(crate) struct Head {
    kind: String,
    subtype: String,
    session_id: Option<String>,
    thread_id: Option<String>,
    is_error: bool,
    result: Option<String>,
    /// The tool calls of an `assistant` event: id and name.
    pub(crate) calls: Vec<(String, String)>,
    /// The ids of the tool calls whose results a `user` event has.
    pub(crate) returns: Vec<String>,
}

/// The `result` event, with which the CLI ends its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliResult {
    pub(crate) is_error: bool,
    /// Not masked yet.
    pub(crate) text: Option<String>,
}

impl Head {
    /// Records a top-level entry. The last one of a key wins.
    pub(super) fn note(&mut self, key: &str, value: &str) {
        let text = || serde_json::from_str::<String>(value).ok();
        match key {
            "type" => self.kind = text().unwrap_or_default(),
            "subtype" => self.subtype = text().unwrap_or_default(),
            "session_id" => self.session_id = text(),
            "thread_id" => self.thread_id = text(),
            "is_error" => self.is_error = value == "true",
            "result" => self.result = text(),
            "message" => self.note_message(value),
            _ => {}
        }
    }

    /// Whether this is a fragment of an event that follows whole.
    pub(crate) fn is_partial(&self) -> bool {
        self.kind == "stream_event"
    }

    /// The id of the session that this event of Claude Code or Codex announces.
    pub(crate) fn session(&self) -> Option<&str> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("system", "init") => self.session_id.as_deref(),
            ("thread.started", _) => self.thread_id.as_deref(),
            _ => None,
        }
    }

    /// The result, if this is a `result` event.
    pub(crate) fn result(&self) -> Option<CliResult> {
        let result = || CliResult { is_error: self.is_error, text: self.result.clone() };
        (self.kind == "result").then(result)
    }

    fn note_message(&mut self, value: &str) {
        let Ok(Message { content }) = serde_json::from_str(value) else { return };
        for block in content {
            match block {
                Block::ToolUse { id, name } => self.calls.push((id, name)),
                Block::ToolResult { tool_use_id } => self.returns.push(tool_use_id),
                Block::Other => {}
            }
        }
    }
}

#[derive(Deserialize)]
struct Message {
    content: Vec<Block>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    ToolUse {
        id: String,
        name: String,
    },
    ToolResult {
        tool_use_id: String,
    },
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use mask::Masker;

    fn read(line: &str) -> super::Head {
        Event::read(line.as_bytes(), &Masker::default()).unwrap().head
    }

    #[test]
    fn both_clis_announce_their_session() {
        let claude = read(r#"{"type":"system","subtype":"init","session_id":"s1"}"#);
        let codex = read(r#"{"type":"thread.started","thread_id":"t1"}"#);
        assert_eq!((claude.session(), codex.session()), (Some("s1"), Some("t1")));
        assert_eq!(read(r#"{"type":"assistant","session_id":"s2"}"#).session(), None);
    }

    #[test]
    fn tool_calls_and_their_results_are_read() {
        let head = read(
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"x"},
                {"type":"tool_use","id":"t1","name":"WebFetch","input":{}},
                {"type":"server_thing","what":[1]}]}}"#,
        );
        assert_eq!(head.calls, [("t1".to_owned(), "WebFetch".to_owned())]);
        let head = read(
            r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]}}"#,
        );
        assert_eq!(head.returns, ["t1"]);
    }

    #[test]
    fn a_message_of_an_unexpected_form_is_ignored() {
        let head = read(r#"{"type":"user","message":{"content":"just text"},"is_error":"yes"}"#);
        assert!(head.calls.is_empty() && head.result().is_none());
    }

    #[test]
    fn a_result_event_has_its_error_flag_and_text() {
        let result = read(r#"{"type":"result","is_error":true,"result":"no"}"#).result().unwrap();
        assert!(result.is_error);
        assert_eq!(result.text.as_deref(), Some("no"));
    }
}
