//! Files of sandboxes as resources.

use std::io::Read as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbox_api::files::{Code, Range};
use sandbox_api::{Filter, State};
use serde_json::{Value, json};

use crate::call::{Call, Entered};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::message::RpcError;
use crate::session::Session;
use crate::text::is_binary;
use crate::tool::folder_text;
use crate::uri;

/// The largest file, in bytes. Clients hold a resource in memory.
const LARGEST: usize = 8 << 20;

/// The result of `resources/list`: the root folder of each sandbox that runs.
pub(crate) fn list(context: &Context, session: &Arc<Session>) -> Value {
    let filter = Filter { states: vec![State::Running], ..Filter::default() };
    let page = context.sandboxes.list(&session.caller, &filter);
    let sandboxes = page.map(|page| page.sandboxes).unwrap_or_default();
    let resources: Vec<_> = sandboxes
        .iter()
        .map(|(sandbox, _)| {
            let (id, template) = (sandbox.id(), &sandbox.template().name);
            json!({
                "uri": uri::format(id, "/"),
                "name": format!("files of sandbox {id}"),
                "description": format!("The files of a sandbox of the template `{template}`"),
                "mimeType": "inode/directory",
            })
        })
        .collect();
    json!({"resources": resources})
}

/// The result of `resources/templates/list`.
pub(crate) fn templates() -> Value {
    json!({"resourceTemplates": [{
        "uriTemplate": "sandbox://{sandbox_id}/{+path}",
        "name": "sandbox_file",
        "title": "A file in a sandbox",
        "description": "A file, as text or as bytes, or the list of a folder",
    }]})
}

/// The result of `resources/read`.
pub(crate) fn read(call: &Call<'_>, uri: &str) -> Result<Value> {
    let missing = || Failure::Protocol(RpcError::no_resource(uri));
    let (id, path) = uri::parse(uri).ok_or_else(missing)?;
    let found = call.sandboxes().get(&call.session.caller, &id);
    found.map_err(|_| missing())?;
    let content = enter_and_read(call, &id, &path).map_err(|failure| match failure {
        // What a model would read, a program gets as an error of the protocol.
        Failure::Error(text) => Failure::Protocol(RpcError { code: -32603, message: text }),
        other => other,
    })?;
    let content = match content {
        None => return Err(missing()),
        Some(Content::Folder(text)) => {
            json!({"uri": uri, "mimeType": "inode/directory", "text": text})
        }
        Some(Content::File(bytes)) => match String::from_utf8(bytes) {
            Ok(text) if !is_binary(text.as_bytes()) => {
                json!({"uri": uri, "mimeType": "text/plain", "text": text})
            }
            Ok(text) => blob(uri, text.as_bytes()),
            Err(error) => blob(uri, error.as_bytes()),
        },
    };
    Ok(json!({"contents": [content]}))
}

enum Content {
    Folder(String),
    File(Vec<u8>),
}

/// `None` if there is no such file.
fn enter_and_read(call: &Call<'_>, id: &str, path: &str) -> Result<Option<Content>> {
    let entered = call.enter(Some(id), call.timeout())?;
    let login = entered.login(call, None)?;
    let files = login.files(&entered.running);
    let file = match files.read_file(path, Range::default(), call.timeout()) {
        Ok(file) => file,
        Err(error) if error.code() == Some(Code::NotFound) => return Ok(None),
        Err(error) if error.code() == Some(Code::IsADirectory) => {
            return folder(call, &entered, path).map(Some);
        }
        Err(error) => return Err(entered.file_failure(&error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(LARGEST as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
    if bytes.len() > LARGEST {
        return Err(Failure::new(format!(
            "{path} has over {LARGEST} bytes, the most of a resource"
        )));
    }
    Ok(Some(Content::File(bytes)))
}

fn folder(call: &Call<'_>, entered: &Entered, path: &str) -> Result<Content> {
    let login = entered.login(call, None)?;
    let listing = login.files(&entered.running).list(path, 1, call.deadline());
    let listing = listing.map_err(|error| entered.file_failure(&error))?;
    Ok(Content::Folder(folder_text(&listing, call.options().max_result)))
}

fn blob(uri: &str, bytes: &[u8]) -> Value {
    json!({"uri": uri, "mimeType": "application/octet-stream", "blob": STANDARD.encode(bytes)})
}
