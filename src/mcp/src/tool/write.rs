//! Writing a file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::{Arguments, needed};
use crate::call::Call;
use crate::failure::{Failure, Result};

pub(super) const WRITE: Tool = Tool {
    name: "write_file",
    title: "Write a file",
    description: |_| {
        "Writes a file of a sandbox, and makes the missing folders above it. What was in the file is replaced: edit_file \
         changes a part of it."
            .to_owned()
    },
    input: |_| {
        let properties = json!({
            "path": schema::path("The file."),
            "content": schema::string("All of its new content."),
            "is_base64": schema::flag("Whether `content` is base64, for binary files."),
            "user": schema::user(),
            "sandbox_id": schema::sandbox(),
        });
        (properties, &["path", "content"])
    },
    output: None,
    effect: Effect::Changes,
    run: write,
};

fn write(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let path = needed("path", arguments.name("path")?)?;
    let content = needed("content", arguments.text("content")?)?;
    let is_base64 = arguments.flag("is_base64")?;
    let user = arguments.name("user")?;
    let sandbox = arguments.sandbox()?;
    arguments.finish()?;
    let content = if is_base64 {
        let decoded = STANDARD.decode(content.trim());
        decoded.map_err(|error| Failure::new(format!("`content` is not base64: {error}")))?
    } else {
        content.into_bytes()
    };
    let entered = call.enter(sandbox.as_deref(), call.timeout())?;
    let login = entered.login(call, user.as_deref())?;
    call.check()?;
    let files = login.files(&entered.running);
    let written = files.upload(&path, &mut &content[..], None, call.timeout());
    let entry = written.map_err(|error| entered.file_failure(&error))?;
    Ok(Output::text(format!("wrote {} bytes to {}", content.len(), entry.path)))
}
