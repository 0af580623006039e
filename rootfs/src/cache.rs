//! The cache of builds: `<state_dir>/cache/<kind>/<key>`. The key is the hash of all inputs of an
//! entry.
//!
//! Entries are published atomically and never changed, so an existing one is complete.
//! An entry that no build has used for `KEEP` is removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base::durable;

use crate::error::{Error, Result};

const KEEP: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Whether a build may use cached entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    Allowed,
    Refused,
}

pub(crate) struct Cache {
    dir: PathBuf,
    reuse: Reuse,
}

impl Cache {
    pub(crate) fn open(state_dir: &Path, reuse: Reuse) -> Cache {
        Cache { dir: state_dir.join("cache"), reuse }
    }

    /// The entry, if it exists and may be used. It counts as used now.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<PathBuf> {
        let path = self.dir.join(kind).join(key);
        if self.reuse == Reuse::Refused || !path.exists() {
            return None;
        }
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            log::debug!("cannot touch a cache entry; path={} error={error}", path.display());
        }
        Some(path)
    }

    /// Moves a finished file or folder of the staging folder into the cache.
    pub(crate) fn put(&self, kind: &str, key: &str, made: &Path) -> Result<PathBuf> {
        let parent = self.dir.join(kind);
        durable::create_dir(&parent)?;
        let path = parent.join(key);
        // Only a build that refuses reuse finds an entry here. A folder cannot be renamed over
        // another.
        durable::remove(&path)?;
        durable::publish(made, &path)?;
        Ok(path)
    }

    /// Removes entries that were not used for `KEEP`.
    pub(crate) fn prune(&self) -> Result<()> {
        for kind in children(&self.dir)? {
            for entry in children(&kind)? {
                if unused_for(&entry)? > KEEP {
                    log::info!("removing unused cache entry; path={}", entry.display());
                    durable::remove(&entry)?;
                }
            }
        }
        Ok(())
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source| Error::Read { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(fail)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

fn unused_for(path: &Path) -> Result<Duration> {
    let modified = fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(modified.elapsed().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(dir: &Path) -> PathBuf {
        let path = dir.join("made");
        fs::write(&path, "x").unwrap();
        path
    }

    #[test]
    fn an_entry_is_found_after_it_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Reuse::Allowed);
        assert_eq!(cache.get("disk", "k"), None);

        let path = cache.put("disk", "k", &made(dir.path())).unwrap();

        assert_eq!(cache.get("disk", "k"), Some(path));
    }

    #[test]
    fn without_reuse_no_entry_is_found_and_a_new_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Reuse::Refused);
        cache.put("disk", "k", &made(dir.path())).unwrap();

        assert_eq!(cache.get("disk", "k"), None);
        cache.put("disk", "k", &made(dir.path())).unwrap();
    }

    #[test]
    fn prune_removes_only_entries_that_were_not_used_lately() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Reuse::Allowed);
        let old = cache.put("disk", "old", &made(dir.path())).unwrap();
        let new = cache.put("disk", "new", &made(dir.path())).unwrap();
        let long_ago = SystemTime::now() - KEEP - Duration::from_secs(60);
        File::open(&old).unwrap().set_modified(long_ago).unwrap();

        cache.prune().unwrap();

        assert!(!old.exists());
        assert!(new.exists());
    }
}
