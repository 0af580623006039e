//! Masks a job's secrets in stored data.
//!
//! The guest masks its data before it sends them. The platform masks them again, with the same crate
//! `mask`, in case a guest does not.

use std::borrow::Cow;

use ::mask::Masker;

use crate::Refusal;
use crate::json::rewrite;

/// The most bytes of secrets: the automaton takes many times their memory.
const LARGEST: usize = 1 << 20;

/// Masks the secrets of one job.
pub(crate) struct Mask(Masker);

impl Mask {
    /// Masks these secrets. It fails if not all of them can be masked.
    pub(crate) fn new<'a>(
        secrets: impl Iterator<Item = &'a String> + Clone,
    ) -> Result<Self, Refusal> {
        let refused = Refusal::SecretsTooLarge { limit: LARGEST };
        let size = secrets.clone().fold(0, |size: usize, one| size.saturating_add(one.len()));
        if size > LARGEST {
            return Err(refused);
        }
        Masker::new(secrets).map(Self).map_err(|_| refused)
    }

    /// Masks them in all texts, keys and numbers of valid JSON.
    pub(crate) fn json(&self, json: &str) -> Result<String, Refusal> {
        rewrite(json, &|text| self.masked(text))
    }

    /// Masks them in a text.
    pub(crate) fn text(&self, text: &mut String) {
        if let Some(masked) = self.masked(text) {
            *text = masked;
        }
    }

    fn masked(&self, text: &str) -> Option<String> {
        match self.0.mask(text) {
            Cow::Owned(masked) => Some(masked),
            Cow::Borrowed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_in_texts_and_keys_at_any_depth() {
        let secrets = ["hunter2".to_owned(), "hunter2-longer".to_owned(), "a\"b\nc".to_owned()];
        let mask = Mask::new(secrets.iter()).unwrap();
        let value = json!({"a": ["x hunter2-longer y", {"hunter2": "a\"b\nc"}], "n": 1});

        let masked = mask.json(&value.to_string()).unwrap();

        let hidden = json!({"a": ["x *** y", {"***": "***"}], "n": 1});
        assert_eq!(masked, hidden.to_string());
    }

    #[test]
    fn every_encoding_of_the_shared_vectors_is_masked_in_stored_json() {
        let vectors = include_str!("../../mask/vectors.json");
        for vector in serde_json::from_str::<Vec<serde_json::Value>>(vectors).unwrap() {
            let part = |name: &str| vector[name].as_str().unwrap();
            let text = [part("before"), part("hidden"), part("after")].concat();
            let stars = if part("hidden").is_empty() { "" } else { "***" };
            let mask = Mask::new([part("secret").to_owned()].iter()).unwrap();

            let masked = mask.json(&json!([text]).to_string()).unwrap();

            let expected = part("before").to_owned() + stars + part("after");
            assert_eq!(serde_json::from_str::<Vec<String>>(&masked).unwrap(), [expected]);
        }
    }

    #[test]
    fn numbers_that_contain_a_secret_are_masked() {
        let mask = Mask::new(["20251234".to_owned()].iter()).unwrap();

        let masked = mask.json(r#"{"pin": 20251234, "long": 9202512349.5, "e": 2.0251234e7}"#);

        assert_eq!(masked.unwrap(), r#"{"pin": "***", "long": "9***9.5", "e": "***.0"}"#);
    }

    #[test]
    fn a_secret_is_masked_trimmed_and_line_by_line() {
        let secret = " padded-value\n".to_owned();
        let key = "-----BEGIN-----\r\nfirst-line-of-it\r\nshort\r\n".to_owned();
        let mask = Mask::new([secret, key].iter()).unwrap();
        let mut text = "padded-value; first-line-of-it; short".to_owned();

        mask.text(&mut text);

        assert_eq!(text, "***; ***; short");
    }

    #[test]
    fn too_large_secrets_are_rejected() {
        assert!(Mask::new(["x".repeat(LARGEST)].iter()).is_ok());
        assert!(Mask::new(["x".repeat(LARGEST), "y".to_owned()].iter()).is_err());
    }

    #[test]
    fn short_secrets_are_not_masked() {
        let mask = Mask::new(["a".to_owned(), String::new()].iter()).unwrap();
        let mut text = "banana".to_owned();

        mask.text(&mut text);

        assert_eq!(text, "banana");
    }
}
