//! Copies well-formed JSON text and masks its strings and numbers.

use std::borrow::Cow;

use mask::Masker;

/// Writes a masked string.
pub(super) fn write_masked(text: &str, masker: &Masker, out: &mut Vec<u8>) {
    write_string(&masker.mask(text), out);
}

/// Copies a value and masks its strings, keys and numbers.
pub(super) fn copy_masked(json: &str, masker: &Masker, out: &mut Vec<u8>) {
    let bytes = json.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let token = match bytes[at] {
            b'"' => &json[at..at + string_length(&bytes[at..])],
            b'-' | b'0'..=b'9' => &json[at..at + number_length(&bytes[at..])],
            byte => {
                out.push(byte);
                at += 1;
                continue;
            }
        };
        at += token.len();
        if token.starts_with('"') {
            copy_string(token, masker, out);
        } else if let Cow::Owned(masked) = masker.mask(token) {
            write_string(&masked.replace(|char: char| char != '*', ""), out);
        } else {
            out.extend_from_slice(token.as_bytes());
        }
    }
}

fn copy_string(token: &str, masker: &Masker, out: &mut Vec<u8>) {
    let inside = token.get(1..token.len() - 1).unwrap_or_default();
    if !inside.contains('\\') {
        out.push(b'"');
        out.extend_from_slice(masker.mask(inside).as_bytes());
        out.push(b'"');
        return;
    }
    match serde_json::from_str::<String>(token) {
        Ok(text) => match masker.mask(&text) {
            Cow::Owned(masked) => write_string(&masked, out),
            Cow::Borrowed(_) => out.extend_from_slice(token.as_bytes()),
        },
        // Half of a surrogate pair: valid JSON, but no Unicode text.
        Err(_) => out.extend_from_slice(masker.mask(token).as_bytes()),
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // A string has no JSON error, and writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// The length of the string token at the start of `bytes`, with its quotes.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn number_length(bytes: &[u8]) -> usize {
    let ends = |byte: &u8| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    bytes.iter().position(ends).unwrap_or(bytes.len())
}
