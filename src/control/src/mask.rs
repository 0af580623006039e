//! Hides a job's secrets in what is stored of it.
//!
//! The guest masks what it sends, in every spelling. This is the second net, for a guest that does
//! not: the plain value reaches the database in no case.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::Refusal;
use crate::json::rewrite;

/// Shorter ones hide nothing and would tear every text apart; the contract has the same limit.
const SHORTEST: usize = 5;

const STARS: &str = "***";

/// Finds the secrets of one job.
pub(crate) struct Mask(Option<AhoCorasick>);

impl Mask {
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = &'a String>) -> Self {
        let patterns = secrets.filter(|secret| secret.len() >= SHORTEST);
        let mut builder = AhoCorasick::builder();
        // Fails only for more patterns than a submission can hold.
        Self(builder.match_kind(MatchKind::LeftmostLongest).build(patterns).ok())
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
        let finder = self.0.as_ref().filter(|finder| finder.is_match(text))?;
        let stars = vec![STARS; finder.patterns_len()];
        Some(finder.replace_all(text, &stars))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_in_texts_and_keys_at_any_depth() {
        let secrets = ["hunter2".to_owned(), "hunter2-longer".to_owned(), "a\"b\nc".to_owned()];
        let mask = Mask::new(secrets.iter());
        let value = json!({"a": ["x hunter2-longer y", {"hunter2": "a\"b\nc"}], "n": 1});

        let masked = mask.json(&value.to_string()).unwrap();

        let hidden = json!({"a": ["x *** y", {"***": "***"}], "n": 1});
        assert_eq!(masked, hidden.to_string());
    }

    #[test]
    fn numbers_with_a_secret_in_them_are_hidden() {
        let mask = Mask::new(["20251234".to_owned()].iter());

        let masked = mask.json(r#"{"pin": 20251234, "long": 9202512349.5, "e": 2.0251234e7}"#);

        assert_eq!(masked.unwrap(), r#"{"pin": "***", "long": "9***9.5", "e": "***.0"}"#);
    }

    #[test]
    fn what_is_too_short_to_be_a_secret_is_left_alone() {
        let mask = Mask::new(["a".to_owned(), String::new()].iter());
        let mut text = "banana".to_owned();

        mask.text(&mut text);

        assert_eq!(text, "banana");
    }
}
