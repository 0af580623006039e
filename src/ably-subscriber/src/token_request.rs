//! What an application signs for a subscriber to get a token with.

use std::fmt;

use serde::Deserialize;

use crate::error::TokenError;
use crate::secret::Secret;

/// A signed token request of Ably. The key of the application signs it; each is good for one token.
#[derive(Clone)]
pub struct TokenRequest {
    pub(crate) key_name: String,
    pub(crate) json: Vec<u8>,
    /// The signature; empty if there is none.
    pub(crate) mac: Secret,
}

impl TokenRequest {
    /// Parses the signer's JSON: `keyName`, `timestamp`, `nonce`, `mac` and others.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Known {
            key_name: String,
            #[serde(default)]
            mac: String,
        }
        let known: Known = serde_json::from_slice(json).map_err(|_| TokenError::Malformed)?;
        Ok(Self { key_name: known.key_name, json: json.to_owned(), mac: Secret::new(known.mac) })
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest").field("key_name", &self.key_name).finish_non_exhaustive()
    }
}
