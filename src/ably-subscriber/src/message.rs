//! Messages of a channel, as they are handed to whoever subscribed.

use serde::de::DeserializeOwned;

use crate::encoding;
use crate::frame::Frame;
use crate::msgpack::{Reader, Value};

/// A message that was published on the channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Message {
    /// Unlike any other message's.
    pub id: Option<String>,
    /// What the publisher called it.
    pub name: Option<String>,
    /// What was published.
    pub data: Data,
    /// Who published it, if they said so.
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
    /// JSON, checked but not taken apart: see [`Data::parse`].
    Json(String),
}

impl Data {
    /// Reads JSON, or a text that is some, as a value of one's own.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        match self {
            Self::Json(text) | Self::Text(text) => serde_json::from_str(text),
            Self::None => serde_json::from_str("null"),
            Self::Binary(bytes) => serde_json::from_slice(bytes),
        }
    }
}

/// It is an element of the array of messages, but no message.
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
