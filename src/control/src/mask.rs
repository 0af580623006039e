//! Hides a job's secrets in what is stored of it.
//!
//! The guest masks what it sends, in every spelling. This is the second net, for a guest that does
//! not: the plain value reaches the database in no case.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::Refusal;
use crate::json::rewrite;

/// Shorter ones hide nothing and would tear every text apart; the contract has the same limit.
const SHORTEST: usize = 5;

/// The shortest line of a secret that is hidden by itself: shorter ones are in many texts.
const SHORTEST_LINE: usize = 8;

/// The most bytes of secrets: what hides them takes many times the memory.
const LARGEST: usize = 1 << 20;

const STARS: &str = "***";

/// Finds the secrets of one job.
pub(crate) struct Mask(AhoCorasick);

impl Mask {
    /// Hides each secret as it is and trimmed, and each of its lines: they are what programs print
    /// that read it from a file. It fails if not all of them can be hidden.
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = &'a String>) -> Result<Self, Refusal> {
        let refused = Refusal::SecretsTooLarge { limit: LARGEST };
        let (mut forms, mut size) = (BTreeSet::new(), 0_usize);
        for secret in secrets {
            size = size.saturating_add(secret.len());
            let whole = [secret.as_str(), secret.trim()].into_iter();
            forms.extend(whole.filter(|form| form.len() >= SHORTEST));
            let lines = secret.lines().map(str::trim);
            forms.extend(lines.filter(|line| line.len() >= SHORTEST_LINE));
        }
        if size > LARGEST {
            return Err(refused);
        }
        let mut builder = AhoCorasick::builder();
        // A table of all states and bytes would be larger still.
        let builder = builder.kind(Some(AhoCorasickKind::ContiguousNFA));
        let built = builder.match_kind(MatchKind::LeftmostLongest).build(forms);
        built.map(Self).map_err(|_| refused)
    }

    /// Hides them in all texts, keys and numbers of valid JSON.
    pub(crate) fn json(&self, json: &str) -> Result<String, Refusal> {
        rewrite(json, &|text| self.masked(text))
    }

    /// Hides them in a text.
    pub(crate) fn text(&self, text: &mut String) {
        if let Some(masked) = self.masked(text) {
            *text = masked;
        }
    }

    fn masked(&self, text: &str) -> Option<String> {
        if !self.0.is_match(text) {
            return None;
        }
        let stars = vec![STARS; self.0.patterns_len()];
        Some(self.0.replace_all(text, &stars))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_in_texts_and_keys_at_any_depth() {
        let secrets = ["hunter2".to_owned(), "hunter2-longer".to_owned(), "a\"b\nc".to_owned()];
        let mask = Mask::new(secrets.iter()).unwrap();
        let value = json!({"a": ["x hunter2-longer y", {"hunter2": "a\"b\nc"}], "n": 1});

        let masked = mask.json(&value.to_string()).unwrap();

        let hidden = json!({"a": ["x *** y", {"***": "***"}], "n": 1});
        assert_eq!(masked, hidden.to_string());
    }

    #[test]
    fn numbers_with_a_secret_in_them_are_hidden() {
        let mask = Mask::new(["20251234".to_owned()].iter()).unwrap();

        let masked = mask.json(r#"{"pin": 20251234, "long": 9202512349.5, "e": 2.0251234e7}"#);

        assert_eq!(masked.unwrap(), r#"{"pin": "***", "long": "9***9.5", "e": "***.0"}"#);
    }

    #[test]
    fn a_secret_is_hidden_trimmed_and_line_by_line() {
        let secret = " padded-value\n".to_owned();
        let key = "-----BEGIN-----\r\nfirst-line-of-it\r\nshort\r\n".to_owned();
        let mask = Mask::new([secret, key].iter()).unwrap();
        let mut text = "padded-value; first-line-of-it; short".to_owned();

        mask.text(&mut text);

        assert_eq!(text, "***; ***; short");
    }

    #[test]
    fn more_secrets_than_can_be_hidden_are_refused() {
        assert!(Mask::new(["x".repeat(LARGEST)].iter()).is_ok());
        assert!(Mask::new(["x".repeat(LARGEST), "y".to_owned()].iter()).is_err());
    }

    #[test]
    fn what_is_too_short_to_be_a_secret_is_left_alone() {
        let mask = Mask::new(["a".to_owned(), String::new()].iter()).unwrap();
        let mut text = "banana".to_owned();

        mask.text(&mut text);

        assert_eq!(text, "banana");
    }
}
