//! Sealed records: AES-256-GCM with a random nonce each.
//!
//! A record is the nonce, the ciphertext and the tag. It is bound to its name and its job: a record that is
//! moved to another job's row does not open.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::Keys;
use crate::{Error, Result, RunId};

/// A sealed record, and the public name of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) key: String,
    pub(crate) bytes: Vec<u8>,
}

/// What opening a record gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsealed {
    Plain(Vec<u8>),
    /// The platform does not have its key.
    NoKey,
    /// It was changed, or belongs elsewhere.
    Forged,
}

/// A key that seals.
pub(super) struct Sealing(LessSafeKey);

impl Sealing {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "AES-256 has keys of 32 bytes")]
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    fn open(&self, bytes: &[u8], bound_to: Vec<u8>) -> Option<Vec<u8>> {
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.0.open_in_place(nonce, Aad::from(bound_to), &mut rest).ok()?;
        Some(plain.to_vec())
    }
}

impl Keys {
    /// Seals a job's record with the first key.
    pub(crate) fn seal(&self, name: &str, run: &RunId, mut plain: Vec<u8>) -> Result<Sealed> {
        let nonce: [u8; NONCE_LEN] =
            base::random::bytes().map_err(|source| Error::Entropy { source })?;
        let aad = Aad::from(bound_to(name, run));
        let sealing = &self.first.sealing.0;
        let sealed =
            sealing.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain);
        sealed.map_err(|_| Error::TooLargeToSeal { bytes: plain.len() })?;
        let bytes = [nonce.as_slice(), &plain].concat();
        Ok(Sealed { key: self.first.id.clone(), bytes })
    }

    /// Opens a job's record.
    pub(crate) fn open_sealed(&self, name: &str, run: &RunId, sealed: &Sealed) -> Unsealed {
        let Some(key) = self.all().find(|key| key.id == sealed.key) else {
            return Unsealed::NoKey;
        };
        let plain = key.sealing.open(&sealed.bytes, bound_to(name, run));
        plain.map_or(Unsealed::Forged, Unsealed::Plain)
    }

    /// The public name of the key that seals.
    pub(crate) fn sealing_id(&self) -> &str {
        &self.first.id
    }
}

/// The associated data. The run's id has a fixed length.
fn bound_to(name: &str, run: &RunId) -> Vec<u8> {
    [name.as_bytes(), &[0], run.bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::*;

    fn keys(secrets: &[u8]) -> Keys {
        let mut keys: Vec<_> = secrets.iter().map(|byte| Key::derived([*byte; 32])).collect();
        Keys { path: "/keys".into(), first: keys.remove(0), rest: keys }
    }

    #[test]
    fn a_record_opens_under_its_name_and_job_only() {
        let keys = keys(&[1]);
        let run = RunId::random();
        let sealed = keys.seal("secrets", &run, b"hunter22".to_vec()).unwrap();

        assert_eq!(
            keys.open_sealed("secrets", &run, &sealed),
            Unsealed::Plain(b"hunter22".to_vec())
        );
        assert_eq!(keys.open_sealed("secrets", &RunId::random(), &sealed), Unsealed::Forged);
        assert_eq!(keys.open_sealed("other", &run, &sealed), Unsealed::Forged);
    }

    #[test]
    fn two_records_of_the_same_content_have_different_nonces() {
        let keys = keys(&[1]);
        let run = RunId::random();

        let [one, two] = [0; 2].map(|_| keys.seal("s", &run, b"hunter22".to_vec()).unwrap());

        assert_ne!(one.bytes[..NONCE_LEN], two.bytes[..NONCE_LEN]);
        assert_ne!(one.bytes[NONCE_LEN..], two.bytes[NONCE_LEN..]);
    }

    #[test]
    fn a_changed_or_truncated_record_does_not_open() {
        let keys = keys(&[1]);
        let run = RunId::random();
        let sealed = keys.seal("s", &run, b"hunter22".to_vec()).unwrap();
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut sealed = sealed.clone();
            change(&mut sealed.bytes);
            keys.open_sealed("s", &run, &sealed)
        };

        let flipped = (0..sealed.bytes.len()).map(|at| changed(&|bytes| bytes[at] ^= 1));
        let cut = (0..sealed.bytes.len()).map(|length| changed(&|bytes| bytes.truncate(length)));

        assert!(flipped.chain(cut).all(|opened| opened == Unsealed::Forged));
    }

    #[test]
    fn an_old_key_opens_behind_a_new_one_and_no_longer_without_it() {
        let run = RunId::random();
        let sealed = keys(&[1]).seal("s", &run, b"x".to_vec()).unwrap();

        assert_eq!(keys(&[2, 1]).open_sealed("s", &run, &sealed), Unsealed::Plain(b"x".to_vec()));
        assert_eq!(keys(&[2]).open_sealed("s", &run, &sealed), Unsealed::NoKey);
    }
}
