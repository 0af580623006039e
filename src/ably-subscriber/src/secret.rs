//! Secret texts.

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A token or a key. Its `Debug` output is `***`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, only to be sent.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The URL-encoded text, only to be sent.
    pub(crate) fn expose_encoded(&self) -> String {
        utf8_percent_encode(&self.0, NON_ALPHANUMERIC).to_string()
    }

    /// Redacts the secret in a server's text: servers repeat what they refuse.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        text.replace(&self.0, "***").replace(&self.expose_encoded(), "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("abc".into())), "***");
    }

    #[test]
    fn a_secret_is_hidden_in_all_its_forms() {
        let secret = Secret::new("a.b:c+/".into());

        let text = secret.redact("no token a.b:c+/ nor a%2Eb%3Ac%2B%2F here");

        assert_eq!(text, "no token *** nor *** here");
    }
}
