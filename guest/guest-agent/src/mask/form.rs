//! The forms in which a secret may show: as it is, in base64, percent-encoded, in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// The shortest secret: anything shorter is in every text.
const SHORTEST: usize = 5;

/// The shortest line of a secret, and the shortest piece of its base64, that is hidden by itself.
const SHORTEST_PIECE: usize = 8;

/// The shortest and the longest line of base64 that writers make.
const SHORT_LINE: usize = 64;
const LONG_LINE: usize = 76;

/// All forms of a secret, none of them shorter than the shortest secret. Files end with a newline
/// that what is done with their content often lacks, and programs show single lines of them.
pub(crate) fn all(secret: &[u8]) -> Vec<Vec<u8>> {
    let lines = secret.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| line.len() >= SHORTEST_PIECE);
    let mut forms: Vec<_> =
        [secret, secret.trim_ascii()].into_iter().chain(lines).flat_map(forms).collect();
    forms.sort_unstable();
    forms.dedup();
    forms
}

fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    if secret.len() < SHORTEST {
        return Vec::new();
    }
    let mut forms = vec![secret.to_vec()];
    forms.extend(base64_forms(secret));
    forms.extend(percent_forms(secret));
    forms.extend(json_forms(secret));
    forms
}

/// A byte is spread over two characters of base64 in one of three ways, by where it begins. Those
/// characters are taken that depend on the secret alone, and once more with the last one as it is
/// where the text ends with the secret.
fn base64_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    let mut wrapped = Vec::new();
    for before in 0..3 {
        let shifted = [&[0; 2][..before], secret].concat();
        let text = STANDARD_NO_PAD.encode(&shifted);
        // So many characters hold bits of what comes before.
        let first = (before * 8).div_ceil(6);
        let whole = shifted.len() * 8 / 6;
        forms.push(text.as_bytes()[first..whole].to_vec());
        forms.push(text.as_bytes()[first..].to_vec());
        wrapped.push(base64_pieces(&text.as_bytes()[first..whole], first));
        if before == 0 {
            forms.push(STANDARD.encode(&shifted).into_bytes());
        }
    }
    let url_safe = forms.iter().map(|form| {
        let swap = |byte: &u8| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        };
        form.iter().map(swap).collect()
    });
    let url_safe: Vec<Vec<u8>> = url_safe.collect();
    forms.extend(url_safe);
    forms.extend(wrapped.into_iter().flatten());
    forms
}

/// What lines hold of a form that is wrapped, whatever separates them. Lines have a multiple of four
/// characters, so that a break comes before every fourth;
/// `before` characters of the form's first four are not part of it. Between two breaks there is a whole line, at least a short one.
fn base64_pieces(form: &[u8], before: usize) -> Vec<Vec<u8>> {
    let is_piece = |piece: &&[u8]| (SHORTEST_PIECE..=LONG_LINE).contains(&piece.len());
    let breaks = (1..form.len()).filter(|at| (before + at).is_multiple_of(4));
    let pieces = breaks.flat_map(|at| {
        let (head, tail) = form.split_at(at);
        [Some(head), Some(tail), tail.get(..SHORT_LINE)]
    });
    pieces.flatten().filter(is_piece).map(<[u8]>::to_vec).collect()
}

/// Writers differ in what they leave as it is: the unreserved characters of RFC 3986, those and
/// what JavaScript's encodeURIComponent spares, the path's slash, or what encodeURI spares; and in
/// forms a space is a plus.
fn percent_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for spared in ["-._~", "-._~/", "-_.!~*'()", "-_.!~*'();,/?:@&=+$#"] {
        for upper in [true, false] {
            let form = percent(secret, spared, upper);
            forms.push(replace(&form, b"%20", b"+"));
            forms.push(form);
        }
    }
    forms
}

fn percent(secret: &[u8], spared: &str, upper: bool) -> Vec<u8> {
    let mut form = Vec::with_capacity(secret.len() * 3);
    for byte in secret {
        if byte.is_ascii_alphanumeric() || spared.as_bytes().contains(byte) {
            form.push(*byte);
        } else if upper {
            form.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            form.extend_from_slice(format!("%{byte:02x}").as_bytes());
        }
    }
    form
}

/// As a string in JSON: with as few escapes as it takes, with all that is not ASCII escaped, with
/// the slash escaped; and the first of these as a string in JSON once more.
fn json_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(secret) else { return Vec::new() };
    let plain = json(text);
    let ascii = escape_beyond_ascii(&plain);
    let slashes = plain.replace('/', "\\/");
    let twice = json(&plain);
    [plain, ascii, slashes, twice].map(String::into_bytes).into()
}

/// The inside of a JSON string.
fn json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn escape_beyond_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(from) {
            replaced.extend_from_slice(to);
            rest = after;
        } else {
            replaced.push(rest[0]);
            rest = &rest[1..];
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE;

    use super::super::Masker;
    use super::*;

    const SECRET: &str = "p\"a/ß w?>~rd\n";

    fn is_hidden(text: &str) -> bool {
        let masked = Masker::new([SECRET]).unwrap().mask(text).into_owned();
        // What base64 mixes with the neighbours may stay: a character at each end, and padding.
        masked.contains("***") && masked.replace("***", "").len() <= 10
    }

    #[test]
    fn base64_is_masked_wherever_the_secret_begins_and_ends() {
        for (before, after) in [("", ""), ("x", ""), ("xy", "z"), ("xyz", "zz"), ("", "zzz")] {
            let whole = format!("{before}{SECRET}{after}");
            for text in [STANDARD.encode(&whole), URL_SAFE.encode(&whole)] {
                assert!(is_hidden(&text), "{text}");
            }
        }
    }

    #[test]
    fn wrapped_base64_is_masked_whatever_wraps_it_and_wherever_it_breaks() {
        let secret: String = (0..200_u32).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
        let masker = Masker::new([&secret[..40], &secret]).unwrap();
        for (width, separator) in [(76, "\n"), (76, "\r\n"), (64, "\\n"), (76, "\\r\\n")] {
            for before in 0..80 {
                for secret in [&secret[..40], &secret] {
                    let text = STANDARD.encode(format!("{}{secret}!!", " ".repeat(before)));
                    let lines: Vec<_> = text.as_bytes().chunks(width).collect();
                    let text = String::from_utf8(lines.join(separator.as_bytes())).unwrap();
                    let start = STANDARD.encode(" ".repeat(before / 3 * 3));
                    let masked = masker.mask(&text).replace(separator, "");
                    let rest = masked.strip_prefix(&start).unwrap();
                    // Fewer than eight characters before or behind a break may stay.
                    assert!(rest.replace("***", "").len() <= 20, "{before} {rest} of {text}");
                }
            }
        }
    }

    #[test]
    fn a_line_of_a_secret_and_the_secret_without_its_last_newline_are_masked() {
        let masker = Masker::new(["key-1234\nshort\nother-line-5\r\n", "pass1\n"]).unwrap();
        let masked = masker.mask("<key-1234> <other-line-5> <pass1> <short>");
        assert_eq!(masked, "<***> <***> <***> <short>");
    }

    #[test]
    fn percent_encoding_is_masked_in_either_case_and_however_much_is_encoded() {
        for text in [
            "p%22a%2F%C3%9F%20w%3F%3E~rd%0A",
            "p%22a%2f%c3%9f%20w%3f%3e~rd%0a",
            "p%22a%2F%C3%9F+w%3F%3E~rd%0A",
            "p%22a/%C3%9F%20w%3F%3E~rd%0A",
            "p%22a/%C3%9F%20w?%3E~rd%0A",
        ] {
            assert!(is_hidden(text), "{text}");
        }
    }

    #[test]
    fn json_strings_are_masked_also_in_json_in_json() {
        let once = serde_json::to_string(SECRET).unwrap();
        let twice = serde_json::to_string(&once).unwrap();
        for text in [once.as_str(), &twice, r#"p\"a\/ß w?>~rd\n"#, r#"p\"a/\u00df w?>~rd\n"#] {
            assert!(is_hidden(text), "{text}");
        }
    }

    #[test]
    fn no_form_is_so_short_that_it_is_everywhere() {
        let shortest = ["abcde", "12345", "=====", "\n\n\n\n\n", "äöü"];
        let forms = shortest.iter().flat_map(|secret| all(secret.as_bytes()));
        assert!(forms.into_iter().all(|form| form.len() >= SHORTEST));
    }
}
