//! Parses a line of the CLI's output, and masks and numbers it for sending.
//!
//! Strings and keys are unescaped before they are masked; a number that holds a secret becomes a
//! string. Everything else stays as it was written. Parsing takes one pass and builds no tree.

mod head;
mod text;

use std::fmt;

use mask::Masker;
use serde::de::{DeserializeSeed, Deserializer as _, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

pub(crate) use self::head::{CliResult, Head};

/// A masked event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) head: Head,
    /// The masked JSON without its braces: `"type":"assistant",…`.
    inside: Vec<u8>,
}

impl Event {
    /// Parses and masks a line. `None` if it is no JSON object.
    pub(crate) fn read(line: &[u8], masker: &Masker) -> Option<Event> {
        let line = String::from_utf8_lossy(line);
        let mut event = Event { head: Head::default(), inside: Vec::with_capacity(line.len()) };
        let mut json = Deserializer::from_str(&line);
        json.deserialize_map(Entries { event: &mut event, masker }).ok()?;
        json.end().ok()?;
        Some(event)
    }

    /// The event as JSON, with its sequence number if there is one.
    pub(crate) fn into_json(self, sequence: Option<u64>) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.inside.len() + 40);
        json.push(b'{');
        if let Some(sequence) = sequence {
            let comma = if self.inside.is_empty() { "" } else { "," };
            json.extend_from_slice(format!("\"{SEQUENCE}\":{sequence}{comma}").as_bytes());
        }
        json.extend_from_slice(&self.inside);
        json.push(b'}');
        json
    }
}

/// The key of the sequence number. An entry of the CLI with this key is dropped.
const SEQUENCE: &str = "sequenceNumber";

struct Entries<'a> {
    event: &'a mut Event,
    masker: &'a Masker,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            let value: &RawValue = map.next_value()?;
            if key == SEQUENCE {
                continue;
            }
            self.event.head.note(&key, value.get());
            let inside = &mut self.event.inside;
            if !inside.is_empty() {
                inside.push(b',');
            }
            text::write_masked(&key, self.masker, inside);
            inside.push(b':');
            text::copy_masked(value.get(), self.masker, inside);
        }
        Ok(())
    }
}

/// Deserializes a key.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<String, D::Error> {
        serde::Deserialize::deserialize(json)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn sent(secrets: &[&str], line: &str) -> String {
        let event = Event::read(line.as_bytes(), &Masker::new(secrets).unwrap()).unwrap();
        let json = String::from_utf8(event.into_json(Some(7))).unwrap();
        serde_json::from_str::<Value>(&json).unwrap();
        json
    }

    #[test]
    fn an_event_without_secrets_changes_only_by_its_number() {
        let sent = sent(&[], r#"{"type" : "x", "n":[1, 2.50,{"a":null}], "s":"\u0041\/"}"#);
        assert_eq!(
            sent,
            r#"{"sequenceNumber":7,"type":"x","n":[1, 2.50,{"a":null}],"s":"\u0041\/"}"#
        );
    }

    #[test]
    fn a_sequence_number_of_the_cli_is_dropped() {
        let line = r#"{"sequenceNumber":99,"type":"x","sequenceNumber":98}"#;
        assert_eq!(sent(&[], line), r#"{"sequenceNumber":7,"type":"x"}"#);
        assert_eq!(sent(&[], r#"{"sequenceNumber":9}"#), r#"{"sequenceNumber":7}"#);
    }

    #[test]
    fn secrets_are_masked_in_values_keys_and_numbers_at_any_depth() {
        let line =
            r#"{"k-secret":{"k-secret":["a k-secret",123456789,-1234567.5]},"t":"k\u002dsecret"}"#;
        let sent = sent(&["k-secret", "1234567"], line);
        assert_eq!(sent, r#"{"sequenceNumber":7,"***":{"***":["a ***","***","***"]},"t":"***"}"#);
    }

    #[test]
    fn a_secret_with_quotes_is_masked_and_the_rest_stays_json() {
        let sent =
            sent(&["a\"b\\c\n"], r#"{"x":"<a\"b\\c\n>\t","y":"{\"z\":\"a\\\"b\\\\c\\n\"}"}"#);
        assert_eq!(sent, r#"{"sequenceNumber":7,"x":"<***>\t","y":"{\"z\":\"***\"}"}"#);
    }

    #[test]
    fn every_encoding_of_the_shared_vectors_is_masked_in_an_event() {
        let vectors = include_str!("../../../src/mask/vectors.json");
        for vector in serde_json::from_str::<Vec<Value>>(vectors).unwrap() {
            let part = |name: &str| vector[name].as_str().unwrap();
            let text = [part("before"), part("hidden"), part("after")].concat();
            let stars = if part("hidden").is_empty() { "" } else { "***" };
            let line = serde_json::json!({"type": "x", "t": [text]}).to_string();
            let sent: Value = serde_json::from_str(&sent(&[part("secret")], &line)).unwrap();
            assert_eq!(sent["t"][0], part("before").to_owned() + stars + part("after"));
        }
    }

    #[test]
    fn a_string_with_half_a_surrogate_pair_is_masked() {
        let event =
            Event::read(br#"{"y":"\ud800 secret"}"#, &Masker::new(["secret"]).unwrap()).unwrap();
        assert_eq!(event.into_json(None), br#"{"y":"\ud800 ***"}"#);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let event = Event::read(b"{\"x\":\"\xff\"}", &Masker::default()).unwrap();
        assert_eq!(event.into_json(None), "{\"x\":\"\u{fffd}\"}".as_bytes());
    }

    #[test]
    fn a_line_that_is_no_json_object_is_no_event() {
        for line in ["", "text", "[1]", "12", "{\"a\":1", "{\"a\":1} x", "{\"a\":1}{}", "{a:1}"] {
            assert!(Event::read(line.as_bytes(), &Masker::default()).is_none(), "{line}");
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let line = format!("{{\"x\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
        let event = Event::read(line.as_bytes(), &Masker::new(["secret"]).unwrap()).unwrap();
        assert_eq!(event.into_json(None), line.as_bytes());
    }
}
