//! The tools: their descriptions for models, and how a call of one becomes a result.

mod command;
mod definition;
mod edit;
mod folder;
mod life;
mod publish;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use self::definition::Tool;
pub(crate) use self::folder::text as folder_text;

use serde_json::{Map, Value, json};

use crate::argument::Arguments;
use crate::call::Call;
use crate::context::Context;
use crate::failure::Result;

const TOOLS: [&Tool; 9] = [
    &command::RUN,
    &read::READ,
    &write::WRITE,
    &edit::EDIT,
    &folder::LIST,
    &publish::PUBLISH,
    &life::CREATE,
    &life::LIST,
    &life::END,
];

pub(crate) fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.into_iter().find(|tool| tool.name == name)
}

/// The result of `tools/list`.
pub(crate) fn list(context: &Context) -> Value {
    let tools: Vec<_> = TOOLS.into_iter().map(|tool| tool.describe(context)).collect();
    json!({"tools": tools})
}

/// Calls a tool. Errors are for the model, so they are results.
pub(crate) fn run(call: &Call<'_>, tool: &Tool, arguments: Map<String, Value>) -> Result<Value> {
    let output = (tool.run)(call, Arguments::new(arguments))?;
    Ok(output.result(call.take_notes()))
}

/// The result of a call that failed.
pub(crate) fn failed(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": true})
}
