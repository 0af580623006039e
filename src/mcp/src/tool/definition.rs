//! What a tool is, and what it returns.

use serde_json::{Map, Value, json};

use crate::argument::Arguments;
use crate::call::Call;
use crate::context::Context;
use crate::failure::Result;

/// A tool.
pub(crate) struct Tool {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) description: fn(&Context) -> String,
    /// The properties of its arguments, and which it needs.
    pub(super) input: fn(&Context) -> (Value, &'static [&'static str]),
    /// The properties of its structured result, all of them present.
    pub(super) output: Option<fn() -> Value>,
    pub(super) effect: Effect,
    pub(super) run: fn(&Call<'_>, Arguments) -> Result<Output>,
}

/// What a tool does to its world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    /// What is there stays as it is.
    Adds,
    Changes,
    /// A command, which may reach the network, too.
    Anything,
}

/// The result of a tool.
pub(crate) struct Output {
    pub(super) content: Vec<Value>,
    pub(super) structured: Option<Value>,
    pub(super) meta: Option<Value>,
    pub(super) is_error: bool,
}

impl Tool {
    pub(super) fn describe(&self, context: &Context) -> Value {
        let (properties, required) = (self.input)(context);
        let mut tool = json!({
            "name": self.name,
            "title": self.title,
            "description": (self.description)(context),
            "inputSchema": {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            },
            "annotations": {
                "title": self.title,
                "readOnlyHint": self.effect == Effect::Reads,
                "destructiveHint": matches!(self.effect, Effect::Changes | Effect::Anything),
                "idempotentHint": self.effect == Effect::Reads,
                "openWorldHint": self.effect == Effect::Anything,
            },
        });
        if let Some(output) = self.output {
            let properties = output();
            let names: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).collect();
            tool["outputSchema"] =
                json!({"type": "object", "required": names, "properties": properties});
        }
        tool
    }
}

impl Output {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let content = vec![json!({"type": "text", "text": text.into()})];
        Self { content, structured: None, meta: None, is_error: false }
    }

    /// A value, which clients that do not know structured results get as text.
    pub(crate) fn structured(value: Value) -> Self {
        Self { structured: Some(value.clone()), ..Self::text(value.to_string()) }
    }

    pub(crate) fn content(item: Value) -> Self {
        Self { content: vec![item], structured: None, meta: None, is_error: false }
    }

    pub(super) fn result(mut self, notes: Vec<String>) -> Value {
        if !notes.is_empty() {
            let text = format!("[{}]", notes.join("; "));
            self.content.push(json!({"type": "text", "text": text}));
        }
        let mut result = json!({"content": self.content, "isError": self.is_error});
        if let Some(structured) = self.structured {
            result["structuredContent"] = structured;
        }
        if let Some(meta) = self.meta {
            result["_meta"] = meta;
        }
        result
    }
}
