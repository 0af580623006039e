//! The JSON of the events on stdout and of the records of the history.

use serde::Serialize;
use serde_json::{Value, json};

/// The model in the events.
pub(crate) const MODEL: &str = "mock-claude";

/// `system/init`: the first event of a turn.
#[derive(Serialize)]
pub(crate) struct Init<'a> {
    pub(crate) r#type: &'static str,
    pub(crate) subtype: &'static str,
    pub(crate) cwd: &'a str,
    pub(crate) session_id: &'a str,
    pub(crate) tools: [&'static str; 1],
    pub(crate) model: &'static str,
    pub(crate) uuid: &'a str,
}

/// An `assistant` or `user` event: a message.
#[derive(Serialize)]
pub(crate) struct MessageEvent<'a> {
    pub(crate) r#type: Role,
    pub(crate) message: &'a Message,
    pub(crate) parent_tool_use_id: (),
    pub(crate) session_id: &'a str,
    pub(crate) uuid: &'a str,
}

/// `result`: the last event of a turn.
#[derive(Serialize)]
pub(crate) struct ResultEvent<'a> {
    pub(crate) r#type: &'static str,
    pub(crate) subtype: &'static str,
    pub(crate) is_error: bool,
    pub(crate) duration_ms: u64,
    pub(crate) num_turns: u32,
    pub(crate) result: &'a str,
    pub(crate) session_id: &'a str,
    pub(crate) total_cost_usd: u32,
    pub(crate) usage: Usage,
    pub(crate) uuid: &'a str,
}

/// A line of the history: a message and its parent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryRecord<'a> {
    pub(crate) parent_uuid: Option<&'a str>,
    pub(crate) is_sidechain: bool,
    pub(crate) user_type: &'static str,
    pub(crate) cwd: &'a str,
    pub(crate) session_id: &'a str,
    pub(crate) version: &'static str,
    pub(crate) r#type: Role,
    pub(crate) message: &'a Message,
    pub(crate) uuid: &'a str,
    pub(crate) timestamp: String,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    User,
    Assistant,
}

/// A message of the Messages API, with one block.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Message {
    User {
        role: Role,
        content: Content,
    },
    Assistant {
        id: &'static str,
        r#type: &'static str,
        role: Role,
        model: &'static str,
        content: [Block; 1],
        stop_reason: (),
        stop_sequence: (),
        usage: Usage,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Blocks([Block; 1]),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Block {
    Text { text: String },
    ToolUse { id: &'static str, name: &'static str, input: Value },
    ToolResult { tool_use_id: &'static str, content: String, is_error: bool },
}

/// The number of tokens: zero, since no model runs.
#[derive(Default, Serialize)]
pub(crate) struct Usage {
    input_tokens: u32,
    cache_creation_input_tokens: u32,
    cache_read_input_tokens: u32,
    output_tokens: u32,
}

/// The id of a turn's only tool call.
const TOOL_USE_ID: &str = "toolu_mock_001";

impl Message {
    pub(crate) fn prompt(text: &str) -> Message {
        Message::User { role: Role::User, content: Content::Text(text.to_owned()) }
    }

    pub(crate) fn text(text: impl Into<String>) -> Message {
        Message::assistant(Block::Text { text: text.into() })
    }

    pub(crate) fn bash(command: &str) -> Message {
        Message::tool_use("Bash", json!({ "command": command }))
    }

    pub(crate) fn tool_use(name: &'static str, input: Value) -> Message {
        Message::assistant(Block::ToolUse { id: TOOL_USE_ID, name, input })
    }

    pub(crate) fn tool_result(content: &str, is_error: bool) -> Message {
        let content = content.to_owned();
        let block = Block::ToolResult { tool_use_id: TOOL_USE_ID, content, is_error };
        Message::User { role: Role::User, content: Content::Blocks([block]) }
    }

    pub(crate) fn role(&self) -> Role {
        match self {
            Message::User { .. } => Role::User,
            Message::Assistant { .. } => Role::Assistant,
        }
    }

    fn assistant(block: Block) -> Message {
        Message::Assistant {
            id: "msg_mock_001",
            r#type: "message",
            role: Role::Assistant,
            model: MODEL,
            content: [block],
            stop_reason: (),
            stop_sequence: (),
            usage: Usage::default(),
        }
    }
}
