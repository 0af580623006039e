//! The platform's keys, and what is made with them: run tokens, URL signatures, fingerprints, sealed
//! records.
//!
//! The first key makes; all of them verify and open. So a key is replaced by another before it, and
//! removed once nothing depends on it (`key/check.rs`).
//!
//! | platform | keys |
//! |---|---|
//! | embedded database | one, in the state folder; it is used as it is |
//! | shared database | those of the key file, else the one in the state folder; a key of its own for each purpose is derived by HKDF |
//!
//! A run's token is derived from the key and a random nonce of the attempt. So a repeated claim gets the
//! same token, although the database stores only its hash. The database alone does not reveal tokens.

mod check;
mod file;
mod seal;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base::hex;
use hmac::{Hmac, Mac};
use ring::hkdf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

pub use self::file::add_key;
use self::seal::Sealing;
pub(crate) use self::seal::{Sealed, Unsealed};
use crate::config::Database;
use crate::error::file;
use crate::folder::Folder;
use crate::{Config, Error, Result, RunId, folder};

/// An HMAC or a hash.
pub(crate) type Tag = [u8; 32];

/// The keys of a platform, and the file that they are from.
pub(crate) struct Keys {
    path: PathBuf,
    first: Key,
    rest: Vec<Key>,
}

impl Keys {
    /// Reads the keys, or generates one for a new state folder.
    pub(crate) fn open(config: &Config, folder: &Folder) -> Result<Self> {
        let path = config.key_file.clone().unwrap_or_else(|| folder.key());
        let mut keys = match (&config.database, &config.key_file) {
            (Database::Embedded, None) => vec![Key::plain(own(&path)?)],
            (Database::Embedded, Some(_)) => return Err(Error::KeyFileOfOne { path }),
            (Database::Postgres(_), None) => vec![Key::derived(own(&path)?)],
            (Database::Postgres(_), Some(_)) => {
                file::read(&path)?.into_iter().map(Key::derived).collect()
            }
        };
        if keys.is_empty() {
            return Err(Error::NoKey { path });
        }
        let first = keys.remove(0);
        Ok(Self { path, first, rest: keys })
    }

    fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The token for a new attempt at a job.
    pub(crate) fn run_token(&self, run: &RunId, attempt: u32, nonce: &[u8; 32]) -> String {
        self.first.run_token(run, attempt, nonce)
    }

    /// The token of an attempt, by its stored hash; `None` if its key was removed.
    pub(crate) fn known_run_token(
        &self,
        (run, attempt): (&RunId, u32),
        nonce: &[u8; 32],
        known: &Tag,
    ) -> Option<String> {
        let tokens = self.all().map(|key| key.run_token(run, attempt, nonce));
        tokens.into_iter().find(|token| same(&hash(token), known))
    }

    /// The signature of a URL.
    pub(crate) fn sign(&self, text: &str) -> String {
        self.first.sign(text)
    }

    /// Verifies the signature of a URL.
    pub(crate) fn is_signature(&self, text: &str, signature: &str) -> bool {
        self.all().any(|key| same(key.sign(text).as_bytes(), signature.as_bytes()))
    }

    /// Keyed hashes of a submission, to compare it with another. The first one is for a new submission.
    pub(crate) fn fingerprints(&self, bytes: &[u8]) -> Vec<Tag> {
        self.all().map(|key| tag(&key.submissions, "submission", &[bytes])).collect()
    }
}

/// One key, as a key for each purpose.
struct Key {
    /// Its public name.
    id: String,
    run_tokens: [u8; 32],
    urls: [u8; 32],
    submissions: [u8; 32],
    sealing: Sealing,
}

impl Key {
    /// A key that is used as it is, as all versions of the embedded platform do.
    fn plain(secret: [u8; 32]) -> Self {
        Self { run_tokens: secret, urls: secret, submissions: secret, ..Self::derived(secret) }
    }

    fn derived(secret: [u8; 32]) -> Self {
        let secret =
            hkdf::Salt::new(hkdf::HKDF_SHA256, b"sandbox-runner platform").extract(&secret);
        let [a, b, c, d, e, f, g, h, ..] = derive(&secret, b"key id");
        Self {
            id: hex::encode(&[a, b, c, d, e, f, g, h]),
            run_tokens: derive(&secret, b"run tokens"),
            urls: derive(&secret, b"URL signatures"),
            submissions: derive(&secret, b"fingerprints of submissions"),
            sealing: Sealing::new(&derive(&secret, b"sealed records")),
        }
    }

    fn run_token(&self, run: &RunId, attempt: u32, nonce: &[u8; 32]) -> String {
        let parts: [&[u8]; 3] = [run.bytes(), &attempt.to_be_bytes(), nonce];
        format!("run_{}", hex::encode(&tag(&self.run_tokens, "run token", &parts)))
    }

    fn sign(&self, text: &str) -> String {
        hex::encode(&tag(&self.urls, "url", &[text.as_bytes()]))
    }
}

/// The key for a purpose.
fn derive(secret: &hkdf::Prk, label: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    let label = [label];
    let derived = secret.expand(&label, hkdf::HKDF_SHA256).and_then(|bytes| bytes.fill(&mut key));
    #[expect(clippy::expect_used, reason = "HKDF with SHA-256 has 32 bytes")]
    derived.expect("32 bytes");
    key
}

/// The HMAC of a purpose and its parts. All parts but the last have fixed lengths.
fn tag(key: &[u8; 32], purpose: &str, parts: &[&[u8]]) -> Tag {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(purpose.as_bytes());
    mac.update(&[0]);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// The key of a state folder: read, or generated for a new one.
fn own(path: &Path) -> Result<[u8; 32]> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| Error::BadKey { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = random()?;
            folder::write(path, &key)?;
            Ok(key)
        }
        Err(error) => Err(file("read", path)(error)),
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
    use crate::ConnectionString;

    const NONCE: [u8; 32] = [7; 32];

    fn embedded(dir: &Path) -> Result<Keys> {
        Keys::open(&Config::new(dir), &Folder::open(dir)?)
    }

    /// The keys of a file, for a shared database.
    fn shared(dir: &Path, text: &str) -> Result<Keys> {
        let path = dir.join("keys");
        folder::write(&path, text.as_bytes()).unwrap();
        let mut config = Config::new(dir);
        config.database = Database::Postgres(ConnectionString::new(""));
        config.key_file = Some(path);
        Keys::open(&config, &Folder::open(dir)?)
    }

    fn line(digit: char) -> String {
        format!("{}\n", String::from(digit).repeat(64))
    }

    #[test]
    fn a_reopened_key_makes_the_same_token_for_the_same_attempt_only() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::random();
        let token = embedded(dir.path()).unwrap().run_token(&run, 1, &NONCE);

        let again = embedded(dir.path()).unwrap();

        assert_eq!(again.run_token(&run, 1, &NONCE), token);
        assert_ne!(again.run_token(&run, 2, &NONCE), token);
        assert_ne!(again.run_token(&RunId::random(), 1, &NONCE), token);
    }

    #[test]
    fn the_embedded_platform_makes_the_tokens_of_its_earlier_versions() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("control")).unwrap();
        fs::write(dir.path().join("control/key"), [1; 32]).unwrap();
        let run = "00000000-0000-4000-8000-000000000000".parse().unwrap();

        let token = embedded(dir.path()).unwrap().run_token(&run, 1, &NONCE);

        assert_eq!(token, "run_6d7527a54b0cb059073f1a24d226ffd21018e9890d5b93dcc2dad3f656b386ab");
    }

    #[test]
    fn a_truncated_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        embedded(dir.path()).unwrap();
        fs::write(dir.path().join("control/key"), "short").unwrap();

        assert!(matches!(embedded(dir.path()), Err(Error::BadKey { .. })));
    }

    #[test]
    fn what_an_old_key_made_is_verified_behind_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::random();
        let old = shared(dir.path(), &line('a')).unwrap();
        let (token, signature) = (old.run_token(&run, 1, &NONCE), old.sign("GET /x"));
        let fingerprint = old.fingerprints(b"x")[0];

        let new = shared(dir.path(), &(line('b') + &line('a'))).unwrap();

        assert_ne!(new.run_token(&run, 1, &NONCE), token);
        assert_eq!(new.known_run_token((&run, 1), &NONCE, &hash(&token)), Some(token));
        assert!(new.is_signature("GET /x", &signature));
        assert!(new.fingerprints(b"x").contains(&fingerprint));
        let without = shared(dir.path(), &line('b')).unwrap();
        assert!(!without.is_signature("GET /x", &signature));
    }

    #[test]
    fn each_purpose_has_a_key_of_its_own() {
        let key = Key::derived([1; 32]);

        let all = [key.run_tokens, key.urls, key.submissions, [1; 32]];

        let different: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(different.len(), 4);
        assert_eq!(key.id.len(), 16);
    }

    #[test]
    fn a_key_file_needs_a_shared_database() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        config.key_file = Some("/keys".into());

        let opened = Keys::open(&config, &Folder::open(dir.path()).unwrap());

        assert!(matches!(opened, Err(Error::KeyFileOfOne { .. })));
    }
}
