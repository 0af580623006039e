//! JSON that is changed as it is read, and never built: a million numbers in a list take the memory
//! of their digits and not that of a million values.

use serde_json::{Number, Value};

use crate::Refusal;

/// How deep lists and objects may be in each other. Whoever reads them wraps them in some more.
const DEEPEST: usize = 100;

/// Valid JSON with its texts, keys and numbers changed where `change` has something else for them;
/// a number that is changed becomes a text. What no other program could read is refused.
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
            return Err(Refusal::bad("lists and objects are too deep in each other"));
        }
        match changed {
            Some(text) => written.push_str(&Value::from(text).to_string()),
            None => written.push_str(token),
        }
        rest = after;
    }
    Ok(written)
}

/// How long the string is that the text begins with, in quotes.
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

/// A number as programs write it that have read it.
fn number(token: &str) -> Result<String, Refusal> {
    let number: Number = serde_json::from_str(token).map_err(|_| malformed())?;
    Ok(number.to_string())
}

fn malformed() -> Refusal {
    Refusal::bad("a text or a number that cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shout(json: &str) -> Result<String, Refusal> {
        rewrite(json, &|text| text.contains("42").then(|| format!("<{text}>")))
    }

    #[test]
    fn what_is_not_changed_is_as_it_came() {
        let json = r#" {"a" : [1.0, -2e3, true, null, "\u0041\"\\"], "b":{}} "#;

        assert_eq!(shout(json).unwrap(), json);
    }

    #[test]
    fn texts_keys_and_numbers_are_changed_by_what_they_mean() {
        let json = r#"{"k42":["\u0034\u0032", 421, 4.2e1, "x\"42"]}"#;

        let changed = shout(json).unwrap();

        assert_eq!(changed, r#"{"<k42>":["<42>", "<421>", "<42.0>", "<x\"42>"]}"#);
    }

    #[test]
    fn what_could_not_be_read_again_is_refused() {
        assert!(shout(r#"["\ud800"]"#).is_err());
        assert!(shout("[1e999]").is_err());
        assert!(shout(&"[".repeat(101)).is_err());
        assert!(shout(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
    }

    #[test]
    fn a_list_of_many_numbers_is_read() {
        let json = format!("[{}1]", "1,".repeat(1_000_000));

        assert_eq!(shout(&json).unwrap(), json);
    }
}
