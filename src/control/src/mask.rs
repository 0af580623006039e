//! Hides a job's secrets in what is stored of it.
//!
//! The guest masks what it sends, in every spelling. This is the second net, for a guest that does
//! not: the plain value reaches the database in no case.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

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

    /// Hides them in all texts and keys of a value.
    pub(crate) fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(members) => {
                let taken = std::mem::take(members);
                members.extend(taken.into_iter().map(|(mut name, mut member)| {
                    self.text(&mut name);
                    self.value(&mut member);
                    (name, member)
                }));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Hides them in a text.
    pub(crate) fn text(&self, text: &mut String) {
        if let Some(finder) = self.0.as_ref().filter(|finder| finder.is_match(text.as_str())) {
            let stars = vec![STARS; finder.patterns_len()];
            *text = finder.replace_all(text, &stars);
        }
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
        let mut value = json!({"a": ["x hunter2-longer y", {"hunter2": "a\"b\nc"}], "n": 1});

        mask.value(&mut value);

        assert_eq!(value, json!({"a": ["x *** y", {"***": "***"}], "n": 1}));
    }

    #[test]
    fn what_is_too_short_to_be_a_secret_is_left_alone() {
        let mask = Mask::new(["a".to_owned(), String::new()].iter());
        let mut text = "banana".to_owned();

        mask.text(&mut text);

        assert_eq!(text, "banana");
    }
}
