//! The host's key, and the HMACs made with it: run tokens, URL signatures, fingerprints.
//!
//! A run's token is derived from the key and a random nonce of the attempt. So a repeated claim gets the
//! same token, although the database stores only its hash. The database alone does not reveal tokens.

use std::fs;
use std::io;
use std::path::Path;

use base::hex;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::error::file;
use crate::{Error, Result, RunId, folder};

/// An HMAC or a hash.
pub(crate) type Tag = [u8; 32];

/// The secret key.
pub(crate) struct Key([u8; 32]);

impl Key {
    /// Reads the key, or generates one for a new state folder.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let key = bytes.try_into().map_err(|_| Error::BadKey { path: path.to_owned() })?;
                Ok(Self(key))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random()?;
                folder::write(path, &key)?;
                Ok(Self(key))
            }
            Err(error) => Err(file("read", path)(error)),
        }
    }

    /// The token of one attempt at a job.
    pub(crate) fn run_token(&self, run: &RunId, attempt: u32, nonce: &[u8; 32]) -> String {
        let tag = self.tag("run token", &[run.bytes(), &attempt.to_be_bytes(), nonce]);
        format!("run_{}", hex::encode(&tag))
    }

    /// The signature of a URL.
    pub(crate) fn sign(&self, text: &str) -> String {
        hex::encode(&self.tag("url", &[text.as_bytes()]))
    }

    /// Verifies the signature of a URL.
    pub(crate) fn is_signature(&self, text: &str, signature: &str) -> bool {
        same(self.sign(text).as_bytes(), signature.as_bytes())
    }

    /// A keyed hash of a submission, to compare it with another.
    pub(crate) fn fingerprint(&self, bytes: &[u8]) -> Tag {
        self.tag("submission", &[bytes])
    }

    /// The HMAC of a purpose and its parts. All parts but the last have fixed lengths.
    fn tag(&self, purpose: &str, parts: &[&[u8]]) -> Tag {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

/// The token of this host's runners: read, or generated for a new state folder.
pub(crate) fn runner_token(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(token) => Ok(token.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = format!("runner_{}", hex::encode(&random()?));
            folder::write(path, token.as_bytes())?;
            Ok(token)
        }
        Err(error) => Err(file("read", path)(error)),
    }
}

/// The id of this host's runners in a platform's process: read, or generated for a new state folder.
pub(crate) fn local_runner(path: &Path) -> Result<Uuid> {
    match fs::read_to_string(path) {
        Ok(id) => id.trim().parse().map_err(|_| Error::BadRunner { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            folder::write(path, id.to_string().as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(file("read", path)(error)),
    }
}

/// The stored hash of a token. Tokens are long and random, so a plain hash is enough.
pub(crate) fn hash(token: &str) -> Tag {
    Sha256::digest(token.as_bytes()).into()
}

/// Compares in constant time.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// Random bytes for keys and nonces.
pub(crate) fn random() -> Result<[u8; 32]> {
    base::random::bytes().map_err(|source| Error::Entropy { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reopened_key_makes_the_same_token_for_the_same_attempt_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let run = RunId::random();
        let nonce = random().unwrap();
        let token = Key::open(&path).unwrap().run_token(&run, 1, &nonce);

        let again = Key::open(&path).unwrap();

        assert_eq!(again.run_token(&run, 1, &nonce), token);
        assert_ne!(again.run_token(&run, 2, &nonce), token);
        assert_ne!(again.run_token(&RunId::random(), 1, &nonce), token);
    }

    #[test]
    fn a_truncated_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "short").unwrap();

        assert!(matches!(Key::open(&path), Err(Error::BadKey { .. })));
    }
}
