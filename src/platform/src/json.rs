//! Rewrites JSON as text, without building values: a list of a million numbers takes the memory of
//! its digits only.

use serde_json::{Number, Value};

use crate::Refusal;

/// The deepest nesting of lists and objects. It is below the limit of `serde_json`, since answers
/// wrap the JSON in more levels.
const DEEPEST: usize = 100;

/// Valid JSON with its texts, keys and numbers replaced where `change` returns a replacement. A
/// replaced number becomes a text. JSON that other parsers reject is an error.
pub(crate) fn rewrite(
    json: &str,
    change: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Refusal> {
    let mut written = String::with_capacity(json.len());
    let (mut rest, mut depth) = (json, 0_usize);
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => number_length(rest),
            _ => 1,
        };
        let (token, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
        let changed = match first {
            b'"' => change(&text(token)?),
            b'-' | b'0'..=b'9' => {
                let plain = number(token)?;
                change(token).or_else(|| change(&plain))
            }
            b'[' | b'{' => {
                depth += 1;
                None
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                None
            }
            _ => None,
        };
        if depth > DEEPEST {
            return Err(Refusal::bad("lists and objects are nested too deeply"));
        }
        match changed {
            Some(text) => written.push_str(&Value::from(text).to_string()),
            None => written.push_str(token),
        }
        rest = after;
    }
    Ok(written)
}

/// The length of the quoted string at the beginning of the text.
fn string_length(json: &str) -> usize {
    let mut is_escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(json.len(), |end| end + 2)
}

fn number_length(json: &str) -> usize {
    let is_part =
        |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    json.bytes().position(|byte| !is_part(byte)).unwrap_or(json.len())
}

fn text(token: &str) -> Result<String, Refusal> {
    serde_json::from_str(token).map_err(|_| malformed())
}

/// The number in the form in which other programs print it.
fn number(token: &str) -> Result<String, Refusal> {
    let number: Number = serde_json::from_str(token).map_err(|_| malformed())?;
    Ok(number.to_string())
}

fn malformed() -> Refusal {
    Refusal::bad("malformed text or number")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shout(json: &str) -> Result<String, Refusal> {
        rewrite(json, &|text| text.contains("42").then(|| format!("<{text}>")))
    }

    #[test]
    fn json_without_replacements_is_unchanged() {
        let json = r#" {"a" : [1.0, -2e3, true, null, "\u0041\"\\"], "b":{}} "#;

        assert_eq!(shout(json).unwrap(), json);
    }

    #[test]
    fn texts_keys_and_numbers_are_compared_by_their_decoded_values() {
        let json = r#"{"k42":["\u0034\u0032", 421, 4.2e1, "x\"42"]}"#;

        let changed = shout(json).unwrap();

        assert_eq!(changed, r#"{"<k42>":["<42>", "<421>", "<42.0>", "<x\"42>"]}"#);
    }

    #[test]
    fn json_that_other_parsers_reject_is_an_error() {
        assert!(shout(r#"["\ud800"]"#).is_err());
        assert!(shout("[1e999]").is_err());
        assert!(shout(&"[".repeat(101)).is_err());
        assert!(shout(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
    }

    #[test]
    fn a_list_of_a_million_numbers_is_rewritten() {
        let json = format!("[{}1]", "1,".repeat(1_000_000));

        assert_eq!(shout(&json).unwrap(), json);
    }
}
