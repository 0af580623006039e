//! Parts of JSON schemas that several tools have.

use serde_json::{Value, json};

pub(super) fn string(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

pub(super) fn number(description: &str, least: u64, most: u64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most, "description": description})
}

pub(super) fn seconds(description: &str, most: u64) -> Value {
    json!({"type": "number", "exclusiveMinimum": 0, "maximum": most, "description": description})
}

pub(super) fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

pub(super) fn sandbox() -> Value {
    string("The sandbox, by its id. Without it: the sandbox that all calls without an id share.")
}

pub(super) fn path(description: &str) -> Value {
    string(&format!(
        "{description} A relative path is below the user's home, as is one that begins with ~/."
    ))
}

pub(super) fn user() -> Value {
    string("The user in the sandbox. Without it: `user` if the image has that user, else root.")
}
