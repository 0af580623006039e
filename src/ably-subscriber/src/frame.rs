//! Frames of Ably's protocol, version 5, in MessagePack: reading what comes, writing what is sent.
//!
//! Unknown and malformed fields are ignored. Nothing is copied.

use rmp::encode::{write_map_len, write_str, write_uint};

use crate::error::{ConnectionError, shortened};
use crate::msgpack::{Reader, Value};
use crate::token::Token;

/// The action of a frame, as far as a subscriber uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Connected,
    Disconnected,
    Closed,
    Error,
    Attached,
    Detached,
    Message,
    Auth,
    /// A heartbeat, or an action that a subscriber does not use.
    Other,
}

/// In ATTACHED: nothing was lost since the serial that was asked for.
pub(crate) const RESUMED: u64 = 1 << 2;
/// In ATTACH: the channel was attached before.
const ATTACH_RESUME: u64 = 1 << 5;
/// In ATTACH: messages are wanted. In ATTACHED: they will come.
pub(crate) const MODE_SUBSCRIBE: u64 = 1 << 18;

const CLOSE: u8 = 7;
const ATTACH: u8 = 10;
const AUTH: u8 = 17;

/// A received frame. Absent and malformed fields are `None`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) action: Action,
    pub(crate) id: Option<&'a str>,
    pub(crate) channel: Option<&'a str>,
    pub(crate) serial: Option<&'a str>,
    pub(crate) connection_id: Option<&'a str>,
    pub(crate) connection_key: Option<&'a str>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) flags: u64,
    pub(crate) details: Details<'a>,
    error: ErrorInfo<'a>,
    /// The array of messages, not read yet: so a frame costs no more memory than its bytes.
    pub(crate) messages: Option<&'a [u8]>,
}

/// What CONNECTED says about the connection, times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Details<'a> {
    pub(crate) connection_key: Option<&'a str>,
    pub(crate) state_ttl: Option<u64>,
    pub(crate) max_idle: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ErrorInfo<'a> {
    code: u32,
    message: &'a str,
}

impl<'a> Frame<'a> {
    /// `None` if the bytes are not a frame.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut frame = Self {
            action: Action::Other,
            id: None,
            channel: None,
            serial: None,
            connection_id: None,
            connection_key: None,
            timestamp: None,
            flags: 0,
            details: Details::default(),
            error: ErrorInfo::default(),
            messages: None,
        };
        let mut reader = Reader::new(bytes);
        reader.entries(|key, value, whole| match key {
            "action" => frame.action = value.number().map_or(Action::Other, Action::from_number),
            "id" => frame.id = value.text().filter(is_short),
            "channel" => frame.channel = value.text(),
            "channelSerial" => frame.serial = value.text(),
            "connectionId" => frame.connection_id = value.text().filter(is_short),
            "connectionKey" => frame.connection_key = value.text(),
            "timestamp" => frame.timestamp = value.number(),
            "flags" => frame.flags = value.number().unwrap_or(0),
            "connectionDetails" => frame.details = Details::decode(whole),
            "error" => frame.error = ErrorInfo::decode(whole),
            "messages" => frame.messages = matches!(value, Value::Array(_)).then_some(whole),
            _ => {}
        })?;
        reader.is_at_end().then_some(frame)
    }

    pub(crate) fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// ERROR as a loss. The server may repeat a token in it.
    pub(crate) fn into_refusal(self, tokens: &[&Token]) -> ConnectionError {
        ConnectionError::Refused {
            code: self.error.code,
            message: self.error.redacted_message(tokens),
        }
    }

    /// DISCONNECTED as a loss.
    pub(crate) fn into_disconnection(self, tokens: &[&Token]) -> ConnectionError {
        ConnectionError::Disconnected {
            code: self.error.code,
            message: self.error.redacted_message(tokens),
        }
    }

    /// DETACHED as a loss.
    pub(crate) fn into_detachment(self, tokens: &[&Token]) -> ConnectionError {
        ConnectionError::Detached {
            code: self.error.code,
            message: self.error.redacted_message(tokens),
        }
    }
}

/// A field that is copied to every message of a frame must be short.
fn is_short(text: &&str) -> bool {
    text.len() <= 256
}

impl Action {
    fn from_number(number: u64) -> Self {
        match number {
            4 => Self::Connected,
            6 => Self::Disconnected,
            8 => Self::Closed,
            9 => Self::Error,
            11 => Self::Attached,
            13 => Self::Detached,
            15 => Self::Message,
            17 => Self::Auth,
            _ => Self::Other,
        }
    }
}

impl<'a> Details<'a> {
    fn decode(bytes: &'a [u8]) -> Self {
        let mut details = Self::default();
        // Anything but a map has no details.
        let _ = Reader::new(bytes).entries(|key, value, _| match key {
            "connectionKey" => details.connection_key = value.text(),
            "connectionStateTtl" => details.state_ttl = value.number(),
            "maxIdleInterval" => details.max_idle = value.number(),
            _ => {}
        });
        details
    }
}

impl<'a> ErrorInfo<'a> {
    fn decode(bytes: &'a [u8]) -> Self {
        let mut info = Self::default();
        // Anything but a map has no error.
        let _ = Reader::new(bytes).entries(|key, value, _| match key {
            "code" => {
                let code = value.number().and_then(|code| u32::try_from(code).ok());
                info.code = code.unwrap_or(0);
            }
            "message" => info.message = value.text().unwrap_or_default(),
            _ => {}
        });
        info
    }

    fn redacted_message(&self, tokens: &[&Token]) -> String {
        let redact = |text: String, token: &&Token| token.secret.redact(&text);
        shortened(&tokens.iter().fold(self.message.to_owned(), redact))
    }
}

/// ATTACH. With a serial, what came after it is sent again.
pub(crate) fn attach(
    channel: &str,
    params: &[(String, String)],
    serial: Option<&str>,
    was_attached: bool,
) -> Vec<u8> {
    let entries = 3 + u32::from(serial.is_some()) + u32::from(!params.is_empty());
    let mut bytes = begin(entries, ATTACH);
    text(&mut bytes, "channel", channel);
    let resume = if was_attached { ATTACH_RESUME } else { 0 };
    key(&mut bytes, "flags");
    write(write_uint(&mut bytes, MODE_SUBSCRIBE | resume));
    if let Some(serial) = serial {
        text(&mut bytes, "channelSerial", serial);
    }
    if !params.is_empty() {
        key(&mut bytes, "params");
        let count = u32::try_from(params.len()).unwrap_or(u32::MAX);
        write(write_map_len(&mut bytes, count));
        params.iter().for_each(|(name, value)| text(&mut bytes, name, value));
    }
    bytes
}

/// AUTH with another token.
pub(crate) fn auth(token: &Token) -> Vec<u8> {
    let mut bytes = begin(2, AUTH);
    key(&mut bytes, "auth");
    write(write_map_len(&mut bytes, 1));
    text(&mut bytes, "accessToken", token.secret.expose());
    bytes
}

/// CLOSE: the connection will not be resumed.
pub(crate) fn close() -> Vec<u8> {
    begin(1, CLOSE)
}

fn begin(entries: u32, action: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(write_map_len(&mut bytes, entries));
    key(&mut bytes, "action");
    write(write_uint(&mut bytes, action.into()));
    bytes
}

fn text(bytes: &mut Vec<u8>, name: &str, value: &str) {
    key(bytes, name);
    write(write_str(bytes, value));
}

fn key(bytes: &mut Vec<u8>, name: &str) {
    write(write_str(bytes, name));
}

/// Writing to memory does not fail.
fn write<T, E>(written: Result<T, E>) {
    debug_assert!(written.is_ok(), "memory takes all that is written");
}

#[cfg(test)]
mod tests {
    use proptest::collection::{hash_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::message::messages;

    /// A value of MessagePack, of any kind and not too deep.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<u64>().prop_map(|number| written(|bytes| write(write_uint(bytes, number)))),
            ".{0,8}".prop_map(|text| written(|bytes| write(write_str(bytes, &text)))),
            "[0-9]{1,3}".prop_map(|text| written(|bytes| write(write_str(bytes, &text)))),
            vec(any::<u8>(), 1..12),
            Just(vec![0xc0]),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(|items| {
                    let head = vec![0x90 | u8::try_from(items.len()).unwrap()];
                    [head, items.concat()].concat()
                }),
                hash_map(known_key(), inner, 0..6).prop_map(|entries| map(entries.into_iter())),
            ]
        })
    }

    fn known_key() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "action",
            "id",
            "channel",
            "channelSerial",
            "connectionDetails",
            "maxIdleInterval",
            "error",
            "code",
            "message",
            "messages",
            "name",
            "data",
            "encoding",
            "timestamp",
            "flags",
        ])
        .prop_map(str::to_owned)
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    }

    fn map(entries: impl ExactSizeIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
        let mut bytes = vec![0x80 | u8::try_from(entries.len()).unwrap()];
        for (name, value) in entries {
            key(&mut bytes, &name);
            bytes.extend(value);
        }
        bytes
    }

    /// Decodes all there is; what comes out is no larger than what went in, but for what each
    /// message has of its frame's.
    fn decode_all(bytes: &[u8]) {
        let Some(frame) = Frame::decode(bytes) else { return };
        for message in messages(&frame).flatten() {
            let length = match &message.data {
                crate::Data::Text(text) | crate::Data::Json(text) => text.len(),
                crate::Data::Binary(bytes) => bytes.len(),
                crate::Data::None => 0,
            };
            assert!(length <= bytes.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes in vec(any::<u8>(), 0..256)) {
            decode_all(&bytes);
        }

        #[test]
        fn any_frame_of_known_fields_is_decoded(
            entries in hash_map(known_key(), value(), 0..12),
            at in any::<prop::sample::Index>(),
            noise in any::<u8>(),
        ) {
            let mut bytes = map(entries.into_iter());
            decode_all(&bytes);
            let at = at.index(bytes.len());
            bytes[at] = noise;
            decode_all(&bytes);
            decode_all(&bytes[..at]);
        }
    }

    #[test]
    fn the_last_of_repeated_keys_counts() {
        let bytes = b"\x83\xa6action\x0b\xa5flags\x04\xa6action\x0d";

        assert_eq!(Frame::decode(bytes).unwrap().action, Action::Detached);
    }

    #[test]
    fn fields_of_the_wrong_type_are_ignored() {
        let bytes = b"\x83\xa6action\x04\xa7channel\x07\xb1connectionDetails\x90";
        let frame = Frame::decode(bytes).unwrap();

        assert_eq!((frame.action, frame.channel), (Action::Connected, None));
        assert_eq!(frame.details, Details::default());
    }

    #[test]
    fn a_frame_of_a_million_messages_costs_no_more_than_its_bytes() {
        let mut bytes = b"\x82\xa6action\x0f\xa8messages\xdd\x00\x0f\x42\x40".to_vec();
        bytes.resize(bytes.len() + 1_000_000, 0x80);
        let frame = Frame::decode(&bytes).unwrap();

        assert_eq!(messages(&frame).filter(Result::is_ok).count(), 1_000_000);
    }
}
