//! Messages of JSON-RPC 2.0, as the Model Context Protocol restricts it: no batches, no `null` as an id.

use serde_json::{Map, Value, json};

/// The longest id, in bytes. A server has to repeat it.
const LONGEST_ID: usize = 1024;

/// A message from a client.
#[derive(Debug)]
pub(crate) enum Message {
    Request {
        id: Id,
        method: String,
        params: Map<String, Value>,
    },
    Notification {
        method: String,
        params: Map<String, Value>,
    },
    /// The answer to a request of a server, of which this one makes none.
    Response,
}

/// What a client calls a request: a string or an integer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Id(Value);

/// An error of the protocol, which the model seldom sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RpcError {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// A message that could not be read, with its id if that could.
#[derive(Debug)]
pub(crate) struct Malformed {
    pub(crate) id: Option<Id>,
    pub(crate) error: RpcError,
}

impl RpcError {
    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self { code: -32600, message: message.into() }
    }

    pub(crate) fn no_method(method: &str) -> Self {
        Self { code: -32601, message: format!("there is no method `{}`", shorten(method)) }
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into() }
    }

    pub(crate) fn no_resource(uri: &str) -> Self {
        Self { code: -32002, message: format!("there is no resource `{}`", shorten(uri)) }
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self { code: -32000, message: message.into() }
    }
}

impl Id {
    pub(crate) fn of(value: &Value) -> Option<Self> {
        let is_id = match value {
            Value::String(text) => text.len() <= LONGEST_ID,
            Value::Number(number) => number.is_i64() || number.is_u64(),
            _ => false,
        };
        is_id.then(|| Self(value.clone()))
    }
}

/// Reads a message. Nesting beyond 128 levels is an error of the parser.
pub(crate) fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    let value = serde_json::from_slice(bytes).map_err(|error| Malformed {
        id: None,
        error: RpcError { code: -32700, message: format!("the message is not JSON: {error}") },
    })?;
    let Value::Object(mut fields) = value else {
        let message = "a message is one JSON object: batches are not supported";
        return Err(Malformed { id: None, error: RpcError::invalid_request(message) });
    };
    let id = fields.get("id").and_then(Id::of);
    let has_id = fields.contains_key("id");
    let fail = |error| Err(Malformed { id: id.clone(), error });
    if fields.get("jsonrpc") != Some(&json!("2.0")) {
        return fail(RpcError::invalid_request("`jsonrpc` is not \"2.0\""));
    }
    if has_id && id.is_none() {
        return fail(RpcError::invalid_request("`id` is neither a string nor an integer"));
    }
    let method = match fields.remove("method") {
        Some(Value::String(method)) => method,
        None if id.is_some() && (fields.contains_key("result") || fields.contains_key("error")) => {
            return Ok(Message::Response);
        }
        _ => return fail(RpcError::invalid_request("`method` is missing or not a string")),
    };
    let params = match fields.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return fail(RpcError::invalid_params("`params` is not an object")),
    };
    Ok(match id {
        Some(id) => Message::Request { id, method, params },
        None => Message::Notification { method, params },
    })
}

pub(crate) fn reply(id: &Id, result: Result<Value, RpcError>) -> Value {
    match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id.0, "result": result}),
        Err(error) => failure(Some(id), &error),
    }
}

/// An error reply; its id is `null` if that of the request is unknown.
pub(crate) fn failure(id: Option<&Id>, error: &RpcError) -> Value {
    let id = id.map_or(Value::Null, |id| id.0.clone());
    let error = json!({"code": error.code, "message": error.message});
    json!({"jsonrpc": "2.0", "id": id, "error": error})
}

pub(crate) fn notification(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

/// What a client sent, for a message: not all of it.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> i32 {
        parse(text.as_bytes()).unwrap_err().error.code
    }

    #[test]
    fn a_request_has_an_id_and_a_notification_has_none() {
        let request = parse(br#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#).unwrap();
        assert!(matches!(request, Message::Request { method, .. } if method == "ping"));
        let notification = parse(br#"{"jsonrpc":"2.0","method":"x","params":{"a":1}}"#).unwrap();
        assert!(matches!(notification, Message::Notification { params, .. } if params["a"] == 1));
        let response = parse(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#).unwrap();
        assert!(matches!(response, Message::Response));
    }

    #[test]
    fn what_is_no_message_says_why() {
        assert_eq!(code("{"), -32700);
        assert_eq!(code(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#), -32600);
        assert_eq!(code(r#"{"id":1,"method":"ping"}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"method":7}"#), -32600);
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#), -32602);
    }

    #[test]
    fn deep_nesting_is_refused() {
        let bomb = "[".repeat(100_000);
        assert_eq!(
            code(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{bomb}"#)),
            -32700
        );
    }

    #[test]
    fn an_error_reply_repeats_the_id_if_it_is_known() {
        let malformed = parse(br#"{"jsonrpc":"2.0","id":7,"method":1}"#).unwrap_err();
        assert_eq!(failure(malformed.id.as_ref(), &malformed.error)["id"], 7);
        let malformed = parse(b"no").unwrap_err();
        assert_eq!(failure(malformed.id.as_ref(), &malformed.error)["id"], Value::Null);
    }
}
