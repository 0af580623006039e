//! Decodes the encodings of publishers.
//!
//! `encoding` names the steps in the order in which they were done, as in `json/utf-8/base64`, so they
//! are undone from the right. A step that is not known or does not fit stops that: it and those before
//! it stay in `encoding`, and the data stays as it was then.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::IgnoredAny;

use crate::message::Data;
use crate::msgpack::Value;

/// What a value is in that is neither text nor bytes: Ably's own clients do not publish such.
const NATIVE: &str = "msgpack";

/// With or without padding, and whatever bits are left over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes a message's data; returns the encodings that are left, too.
pub(crate) fn decode(
    value: Value<'_>,
    whole: &[u8],
    encoding: Option<&str>,
) -> (Data, Option<String>) {
    let encoding = encoding.unwrap_or_default();
    let data = match value {
        // An extension is how JavaScript's `undefined` is written.
        Value::Nil | Value::Extension => Data::None,
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Data::Text(text.to_owned()),
            Err(_) => Data::Binary(bytes.to_owned()),
        },
        Value::Binary(bytes) => Data::Binary(bytes.to_owned()),
        _ => {
            let separator = if encoding.is_empty() { "" } else { "/" };
            let left = format!("{encoding}{separator}{NATIVE}");
            return (Data::Binary(whole.to_owned()), Some(left));
        }
    };
    undo(data, encoding)
}

fn undo(mut data: Data, mut left: &str) -> (Data, Option<String>) {
    while !left.is_empty() {
        let (before, step) = left.rsplit_once('/').unwrap_or(("", left));
        match undo_one(data, step) {
            Ok(undone) => data = undone,
            Err(same) => return (same, Some(left.to_owned())),
        }
        left = before;
    }
    (data, None)
}

/// The unchanged data on failure.
fn undo_one(data: Data, step: &str) -> Result<Data, Data> {
    match (step, data) {
        ("base64", Data::Text(text)) => {
            BASE64.decode(&text).map(Data::Binary).map_err(|_| Data::Text(text))
        }
        ("utf-8", Data::Binary(bytes)) => String::from_utf8(bytes)
            .map(Data::Text)
            .map_err(|error| Data::Binary(error.into_bytes())),
        ("utf-8", Data::Text(text)) => Ok(Data::Text(text)),
        ("json", Data::Text(text)) => json(text).map_err(Data::Text),
        ("json", Data::Binary(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => json(text).map_err(|text| Data::Binary(text.into_bytes())),
            Err(error) => Err(Data::Binary(error.into_bytes())),
        },
        (_, data) => Err(data),
    }
}

/// A text in JSON is that text, since there may be steps before this one that are for texts.
fn json(text: String) -> Result<Data, String> {
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'"') => serde_json::from_str(&text).map(Data::Text).map_err(|_| text),
        // Checking takes no memory, unlike a tree of values.
        _ => match serde_json::from_str::<IgnoredAny>(&text) {
            Ok(_) if text.trim_ascii() == "null" => Ok(Data::None),
            Ok(_) => Ok(Data::Json(text)),
            Err(_) => Err(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &str, encoding: &str) -> (Data, Option<String>) {
        decode(Value::Text(data.as_bytes()), &[], Some(encoding))
    }

    fn left(encoding: &str) -> Option<String> {
        Some(encoding.to_owned())
    }

    #[test]
    fn encoding_steps_are_decoded_from_right_to_left() {
        let decoded = text("eyJhIjoxfQ==", "json/utf-8/base64");

        assert_eq!(decoded, (Data::Json(r#"{"a":1}"#.into()), None));
    }

    #[test]
    fn bytes_without_an_encoding_stay_bytes() {
        assert_eq!(decode(Value::Binary(&[0, 255]), &[], None), (Data::Binary(vec![0, 255]), None));
        assert_eq!(text("AP8", "base64"), (Data::Binary(vec![0, 255]), None));
    }

    #[test]
    fn encrypted_data_stays_encrypted_and_names_its_encoding() {
        let decoded = text("AP8=", "json/utf-8/cipher+aes-256-cbc/base64");

        assert_eq!(decoded, (Data::Binary(vec![0, 255]), left("json/utf-8/cipher+aes-256-cbc")));
    }

    #[test]
    fn a_step_that_cannot_be_decoded_leaves_the_data_unchanged() {
        assert_eq!(text("{", "json"), (Data::Text("{".into()), left("json")));
        assert_eq!(text("?", "utf-8/base64"), (Data::Text("?".into()), left("utf-8/base64")));
        assert_eq!(text("/w==", "utf-8/base64"), (Data::Binary(vec![255]), left("utf-8")));
        assert_eq!(text("x", "vcdiff"), (Data::Text("x".into()), left("vcdiff")));
        assert_eq!(text("x", "/"), (Data::Text("x".into()), left("/")));
    }

    #[test]
    fn json_strings_and_null_are_decoded_to_text_and_nothing() {
        assert_eq!(text(r#" "a\"b" "#, "json"), (Data::Text("a\"b".into()), None));
        assert_eq!(text(r#""AP8=""#, "base64/json"), (Data::Binary(vec![0, 255]), None));
        assert_eq!(text("null ", "json"), (Data::None, None));
        assert_eq!(text("5", "json"), (Data::Json("5".into()), None));
    }

    #[test]
    fn json_that_is_nested_too_deeply_stays_text() {
        let deep = "[".repeat(100_000);

        assert_eq!(text(&deep, "json"), (Data::Text(deep), left("json")));
    }

    #[test]
    fn data_that_is_neither_text_nor_bytes_is_kept_as_msgpack() {
        assert_eq!(
            decode(Value::Array(0), &[0x90], None),
            (Data::Binary(vec![0x90]), left("msgpack"))
        );
    }
}
