//! API keys: a file in the state folder that has their hashes.
//!
//! A key is `e2b_` and 40 hexadecimal digits: 160 random bits, so a plain SHA-256 of it cannot be reversed. The file
//! is replaced as a whole under a lock, and read again when another process has replaced it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base::sync::Mutex;
use base::{durable, hex, lock, random};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::sandboxes::{Caller, Limits};

/// How exactly the last use of a key is known, in seconds.
const COARSE: u64 = 60 * 60;

/// What every key begins with.
const PREFIX: &str = "e2b_";

/// The API keys of a state folder.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    version: Option<Version>,
    keys: Vec<ApiKey>,
}

/// What changes when the file is replaced.
type Version = (u64, i64, i64, u64);

/// A key, without what it is itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id, which is no secret.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal digits.
    hash: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it was last used, in seconds since 1970, exact to an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<u64>,
    /// What its sandboxes may have together.
    #[serde(default)]
    pub limits: Limits,
    /// What it may do.
    #[serde(default)]
    pub scope: Scope,
    /// Whether it is refused.
    #[serde(default)]
    pub revoked: bool,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything.
    #[default]
    All,
    /// See its sandboxes, without their tokens.
    Read,
}

/// A key to make.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    /// What its user calls it.
    pub name: String,
    /// What its sandboxes may have together.
    pub limits: Limits,
    /// What it may do.
    pub scope: Scope,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    keys: Vec<ApiKey>,
}

/// Why a call on the keys failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum KeyError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a file of API keys", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(durable::Error),
    #[error("cannot write the API keys as JSON")]
    Encode { source: serde_json::Error },
    #[error("cannot read random bytes")]
    Entropy { source: random::Error },
    #[error("no API key has the id or name `{name}`: `runner key ls` lists them")]
    NoSuchKey { name: String },
    #[error("several API keys are named `{name}`: use an id")]
    Ambiguous { name: String },
}

impl ApiKey {
    /// Who calls with this key.
    pub fn caller(&self) -> Caller {
        Caller { key: self.id.clone(), limits: self.limits }
    }
}

impl Keys {
    /// The keys of a state folder, which may have none yet.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join("sandbox-keys.json"), cache: Mutex::default() }
    }

    /// All keys, with those that were revoked.
    pub fn list(&self) -> Result<Vec<ApiKey>, KeyError> {
        let version = self.version()?;
        let mut cache = self.cache.lock();
        if cache.version != version || version.is_none() {
            cache.keys = self.read()?;
            cache.version = version;
        }
        Ok(cache.keys.clone())
    }

    /// The key that a client has, unless there is none such or it was revoked.
    pub fn check(&self, presented: &str) -> Result<Option<ApiKey>, KeyError> {
        let hash = hash(presented);
        let mut found = None;
        for key in self.list()? {
            if bool::from(key.hash.as_bytes().ct_eq(hash.as_bytes())) && !key.revoked {
                found = Some(key);
            }
        }
        if let Some(key) = &found {
            self.used(key);
        }
        Ok(found)
    }

    /// Makes a key. The second part of the result is the key itself, which is stored nowhere.
    pub fn create(&self, new: NewKey) -> Result<(ApiKey, String), KeyError> {
        let entropy = |source| KeyError::Entropy { source };
        let secret: [u8; 20] = random::bytes().map_err(entropy)?;
        let id: [u8; 6] = random::bytes().map_err(entropy)?;
        let secret = format!("{PREFIX}{}", hex::encode(&secret));
        let key = ApiKey {
            id: hex::encode(&id),
            name: new.name,
            hash: hash(&secret),
            created: now(),
            last_used: None,
            limits: new.limits,
            scope: new.scope,
            revoked: false,
        };
        self.change(|keys| {
            keys.push(key.clone());
            Ok(())
        })?;
        Ok((key, secret))
    }

    /// Revokes the key of this id or name.
    pub fn revoke(&self, name: &str) -> Result<ApiKey, KeyError> {
        let mut revoked = None;
        self.change(|keys| {
            let key = select(keys, name)?;
            key.revoked = true;
            revoked = Some(key.clone());
            Ok(())
        })?;
        revoked.ok_or_else(|| KeyError::NoSuchKey { name: name.to_owned() })
    }

    /// Notes the use of a key, if the last noted one is long ago.
    fn used(&self, key: &ApiKey) {
        let now = now();
        if key.last_used.is_some_and(|last| now < last.saturating_add(COARSE)) {
            return;
        }
        let noted = self.change(|keys| {
            let same = keys.iter_mut().filter(|other| other.id == key.id);
            same.for_each(|other| other.last_used = Some(now));
            Ok(())
        });
        if let Err(error) = noted {
            let error = base::error::chain(&error);
            log::warn!("cannot note the use of an API key; error={error}");
        }
    }

    /// Replaces the file.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<ApiKey>) -> Result<(), KeyError>,
    ) -> Result<(), KeyError> {
        if let Some(folder) = self.path.parent() {
            durable::create_dir(folder).map_err(KeyError::Write)?;
        }
        let path = self.path.with_extension("lock");
        let _lock =
            lock::acquire(&path, || {}).map_err(|source| KeyError::Lock { path, source })?;
        let mut content = Content { keys: self.read()? };
        change(&mut content.keys)?;
        let bytes =
            serde_json::to_vec_pretty(&content).map_err(|source| KeyError::Encode { source })?;
        durable::write_private(&self.path, &bytes).map_err(KeyError::Write)
    }

    fn read(&self) -> Result<Vec<ApiKey>, KeyError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(KeyError::Read { path: self.path.clone(), source }),
        };
        let content: Result<Content, _> = serde_json::from_slice(&bytes);
        let content =
            content.map_err(|source| KeyError::Malformed { path: self.path.clone(), source })?;
        Ok(content.keys)
    }

    fn version(&self) -> Result<Option<Version>, KeyError> {
        match fs::metadata(&self.path) {
            Ok(file) => Ok(Some((file.ino(), file.mtime(), file.mtime_nsec(), file.size()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyError::Read { path: self.path.clone(), source }),
        }
    }
}

/// The key of this id, or the only one of this name that is not revoked.
fn select<'a>(keys: &'a mut [ApiKey], name: &str) -> Result<&'a mut ApiKey, KeyError> {
    let by_id = keys.iter().position(|key| key.id == name);
    let named = |key: &&ApiKey| key.name == name && !key.revoked;
    let index = match (by_id, keys.iter().filter(named).count()) {
        (Some(index), _) => Some(index),
        (None, 0..=1) => keys.iter().position(|key| named(&key)),
        (None, _) => return Err(KeyError::Ambiguous { name: name.to_owned() }),
    };
    let found = index.and_then(|index| keys.get_mut(index));
    found.ok_or_else(|| KeyError::NoSuchKey { name: name.to_owned() })
}

fn hash(key: &str) -> String {
    hex::encode(&Sha256::digest(key.as_bytes()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn named(name: &str) -> NewKey {
        NewKey { name: name.to_owned(), ..NewKey::default() }
    }

    #[test]
    fn a_key_is_accepted_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path());
        let (key, secret) = keys.create(named("ci")).unwrap();
        assert_eq!((secret.len(), secret.starts_with("e2b_")), (44, true));
        assert_eq!(keys.check(&secret).unwrap().unwrap().id, key.id);
        keys.revoke("ci").unwrap();
        assert_eq!(keys.check(&secret).unwrap(), None);
    }

    #[test]
    fn keys_of_another_process_are_seen_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (server, command) = (Keys::new(folder.path()), Keys::new(folder.path()));
        assert_eq!(server.list().unwrap(), []);
        let (_, first) = command.create(named("a")).unwrap();
        let (_, second) = command.create(named("b")).unwrap();
        assert!(server.check(&first).unwrap().is_some());
        assert!(server.check(&second).unwrap().is_some());
        command.revoke("a").unwrap();
        assert!(server.check(&first).unwrap().is_none());
    }

    #[test]
    fn the_file_has_no_key_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (_, secret) = Keys::new(folder.path()).create(named("a")).unwrap();
        let path = folder.path().join("sandbox-keys.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(secret.trim_start_matches("e2b_")));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_first_use_of_a_key_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path());
        let (key, secret) = keys.create(named("a")).unwrap();
        assert_eq!(key.last_used, None);
        keys.check(&secret).unwrap();
        assert!(keys.list().unwrap().first().unwrap().last_used.is_some());
    }

    #[test]
    fn keys_of_one_name_are_revoked_by_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path());
        let (first, _) = keys.create(named("a")).unwrap();
        keys.create(named("a")).unwrap();
        assert!(matches!(keys.revoke("a"), Err(KeyError::Ambiguous { .. })));
        assert!(matches!(keys.revoke("b"), Err(KeyError::NoSuchKey { .. })));
        keys.revoke(&first.id).unwrap();
        keys.revoke("a").unwrap();
    }

    #[test]
    fn a_file_that_is_no_list_of_keys_is_an_error_and_not_an_empty_list() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sandbox-keys.json"), "[]").unwrap();
        let keys = Keys::new(folder.path());
        assert!(matches!(keys.check("e2b_00"), Err(KeyError::Malformed { .. })));
        assert!(matches!(keys.create(named("a")), Err(KeyError::Malformed { .. })));
    }
}
