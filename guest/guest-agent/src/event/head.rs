//! What an event says to us: the session, tools that begin and end, the result.
//!
//! The CLI is not trusted to keep its form: what is not as expected is not there.

use serde::Deserialize;

/// What is known of an event.
#[derive(Debug, Default)]
pub(crate) struct Head {
    kind: String,
    subtype: String,
    session_id: Option<String>,
    thread_id: Option<String>,
    is_error: bool,
    result: Option<String>,
    /// Tools that an `assistant` event calls: id and name.
    pub(crate) calls: Vec<(String, String)>,
    /// The ids of those whose results a `user` event has.
    pub(crate) returns: Vec<String>,
}

/// How the CLI says that it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) is_error: bool,
    /// What it answers; not masked yet.
    pub(crate) text: Option<String>,
}

impl Head {
    /// Takes a top-level entry; the last one of a name counts.
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

    /// Whether it is only a part of an event that comes whole later.
    pub(crate) fn is_partial(&self) -> bool {
        self.kind == "stream_event"
    }

    /// The session that it announces: Claude Code's, or Codex's.
    pub(crate) fn session(&self) -> Option<&str> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("system", "init") => self.session_id.as_deref(),
            ("thread.started", _) => self.thread_id.as_deref(),
            _ => None,
        }
    }

    /// The verdict, if this is one.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let verdict = || Verdict { is_error: self.is_error, text: self.result.clone() };
        (self.kind == "result").then(verdict)
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
    fn tools_that_are_called_and_return_are_seen() {
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
    fn a_message_of_another_form_is_passed_over() {
        let head = read(r#"{"type":"user","message":{"content":"just text"},"is_error":"yes"}"#);
        assert!(head.calls.is_empty() && head.verdict().is_none());
    }

    #[test]
    fn the_result_is_the_verdict() {
        let verdict = read(r#"{"type":"result","is_error":true,"result":"no"}"#).verdict().unwrap();
        assert!(verdict.is_error);
        assert_eq!(verdict.text.as_deref(), Some("no"));
    }
}
