//! Masks a set of secrets in a text.

use std::borrow::Cow;

use crate::Result;
use crate::pattern::Patterns;
use crate::search::{Search, replace};

/// Replaces a set of secrets.
#[derive(Debug, Default)]
pub struct Masker {
    /// None if there are no secrets.
    pub(crate) search: Option<Search>,
}

impl Masker {
    /// Masks these secrets. A secret of less than 5 bytes is ignored, as it would match too much.
    pub fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Result<Self> {
        let patterns = Patterns::of(secrets);
        let search = if patterns.is_empty() { None } else { Some(Search::new(&patterns)?) };
        Ok(Self { search })
    }

    /// The text with `***` in the place of each secret; borrowed if there is none in it.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(search) = &self.search else { return Cow::Borrowed(text) };
        let matches = search.find(text.as_bytes());
        if matches.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut masked = Vec::with_capacity(text.len());
        replace(text.as_bytes(), 0, &matches, &mut masked);
        // A secret that is not UTF-8 may match in the middle of a character.
        let masked = String::from_utf8(masked)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Cow::Owned(masked)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::Stream;

    const VECTORS: &str = include_str!("../vectors.json");

    /// The masked text. Asserts that a stream gives the same for pieces of any size.
    fn mask(secrets: &[&str], text: &str) -> String {
        let masker = Masker::new(secrets).unwrap();
        let masked = masker.mask(text).into_owned();
        for size in [1, 2, 3, 7] {
            let mut out = Vec::new();
            let mut stream = Stream::new(&masker);
            text.as_bytes().chunks(size).for_each(|piece| stream.push(piece, &mut out));
            stream.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), masked, "{text} in pieces of {size}");
        }
        masked
    }

    #[test]
    fn every_vector_is_masked() {
        let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
        for vector in &vectors {
            let part = |name: &str| vector[name].as_str().unwrap_or_default().to_owned();
            let text = part("before") + &part("hidden") + &part("after");
            let stars = if part("hidden").is_empty() { "" } else { "***" };
            let expected = part("before") + stars + &part("after");
            assert_eq!(mask(&[&part("secret")], &text), expected, "{vector}");
        }
    }

    #[test]
    fn a_secret_becomes_three_stars() {
        assert_eq!(mask(&["hunter2"], "a hunter2 b hunter2hunter2"), "a *** b ******");
    }

    #[test]
    fn a_secret_inside_a_longer_one_is_masked_with_it() {
        assert_eq!(mask(&["token", "my-token-2"], "my-token-2 token"), "*** ***");
    }

    #[test]
    fn overlapping_secrets_are_masked_completely() {
        assert_eq!(mask(&["abcdef", "defghi", "ghijkl"], "xabcdefghijkly"), "x***y");
        assert_eq!(mask(&["bcdefg", "abcdefgh", "defghij"], "abcdefghij abcdefg"), "*** a***");
    }

    #[test]
    fn a_prefix_of_a_secret_is_not_masked() {
        assert_eq!(mask(&["hunter2"], "hunter1 hunte hunterhunter2"), "hunter1 hunte hunter***");
        assert_eq!(mask(&["aaaab"], "aaaaaaaaab aaaa"), "aaaaa*** aaaa");
        assert_eq!(mask(&["a\"bcdef"], r#"a\"bc 100% of a\"bcd"#), r#"a\"bc 100% of a\"bcd"#);
    }

    #[test]
    fn short_secrets_are_ignored_and_no_secrets_change_nothing() {
        assert_eq!(mask(&["abcd", ""], "abcd %61bcd"), "abcd %61bcd");
        assert_eq!(mask(&[], "any\\u0074hing"), "any\\u0074hing");
    }

    #[test]
    fn a_secret_of_several_lines_is_masked_across_them_and_line_by_line() {
        assert_eq!(mask(&["line one\nline two"], "x\nline one\nline two\ny"), "x\n***\ny");
        let secrets = ["key-1234\nshort\nother-line-5\r\n", "pass1\n"];
        let text = "<key-1234> <other-line-5> <pass1> <short>";
        assert_eq!(mask(&secrets, text), "<***> <***> <***> <short>");
    }

    #[test]
    fn multibyte_characters_around_secrets_stay_valid() {
        assert_eq!(mask(&["pässwörd"], "äpässwördö"), "ä***ö");
    }

    #[test]
    fn an_invalid_escape_stays_unchanged() {
        for text in ["100%", "%zz\\", "\\u12", "a+b", "\\x1", "%2", "\\ud800", "%25%2"] {
            assert_eq!(mask(&["hunter2"], text), text);
        }
    }
}
