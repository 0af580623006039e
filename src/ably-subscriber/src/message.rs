//! The messages of a channel.

use serde::de::DeserializeOwned;

use crate::encoding;
use crate::frame::Frame;
use crate::msgpack::{Reader, Value};

/// A message that was published on the channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Message {
    /// Its unique id.
    pub id: Option<String>,
    /// The publisher's name for it.
    pub name: Option<String>,
    /// What was published.
    pub data: Data,
    /// The publisher's client id, if it has one.
    pub client_id: Option<String>,
    /// The connection that it was published on.
    pub connection_id: Option<String>,
    /// When Ably received it, in milliseconds since 1970.
    pub timestamp_ms: Option<u64>,
    /// What `data` is still encoded in: such as `cipher+aes-256-cbc`, which takes a key, or an encoding
    /// that does not fit the data. None if there is nothing left to do.
    pub encoding: Option<String>,
}

/// What was published, decoded as far as possible.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Data {
    /// Nothing.
    #[default]
    None,
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// JSON, validated and not parsed: see [`Data::parse`].
    Json(String),
}

impl Data {
    /// Parses JSON, or text that is JSON, to a type.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        match self {
            Self::Json(text) | Self::Text(text) => serde_json::from_str(text),
            Self::None => serde_json::from_str("null"),
            Self::Binary(bytes) => serde_json::from_slice(bytes),
        }
    }
}

/// An element of the array of messages is not a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The messages of a frame, decoded one by one.
pub(crate) fn messages<'a>(
    frame: &'a Frame<'a>,
) -> impl Iterator<Item = Result<Message, Unreadable>> + 'a {
    let mut reader = Reader::new(frame.messages.unwrap_or_default());
    let count = match reader.value() {
        Some(Value::Array(count)) => count,
        _ => 0,
    };
    (0..count).map(move |index| {
        let (_, bytes) = reader.whole().ok_or(Unreadable)?;
        read(bytes, frame, index).ok_or(Unreadable)
    })
}

fn read(bytes: &[u8], frame: &Frame<'_>, index: u32) -> Option<Message> {
    let mut message = Message::default();
    let mut data = (Value::Nil, &[][..]);
    let mut encoding = None;
    let owned = |value: Value<'_>| value.text().map(str::to_owned);
    Reader::new(bytes).entries(|key, value, whole| match key {
        "id" => message.id = owned(value),
        "name" => message.name = owned(value),
        "data" => data = (value, whole),
        "encoding" => encoding = value.text(),
        "clientId" => message.client_id = owned(value),
        "connectionId" => message.connection_id = owned(value),
        "timestamp" => message.timestamp_ms = value.number(),
        _ => {}
    })?;
    let of_frame = || frame.id.map(|id| format!("{id}:{index}"));
    message.id = message.id.or_else(of_frame);
    message.connection_id =
        message.connection_id.or_else(|| frame.connection_id.map(str::to_owned));
    message.timestamp_ms = message.timestamp_ms.or(frame.timestamp);
    (message.data, message.encoding) = encoding::decode(data.0, data.1, encoding);
    Some(message)
}
