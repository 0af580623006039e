//! Content as objects of a bucket.
//!
//! ```text
//! <prefix>objects/<name>                            content, written by the platform alone
//! <prefix>uploads/<run>/<attempt>/…                 what a guest uploads, until it is committed
//! <prefix>uploads/operator/… submitter/<name>/…     what an operator and a submitter upload
//! ```
//!
//! A guest's URL for an upload stays valid after its commit. So a commit copies the upload, within the store,
//! to a key that only the platform can write, and checks the copy.

use std::io::Read;
use std::time::{Duration, SystemTime};

use s3::{Bucket, Listed, Method, Stat};
use uuid::Uuid;

use crate::{Error, Refusal, Result};

/// The largest archive that an operator uploads by one request.
pub(crate) const LARGEST_SINGLE: u64 = 64 << 20;

/// The objects of a platform, or of several with one database.
pub(crate) struct Objects {
    bucket: Bucket,
    prefix: String,
    url_lifetime: Duration,
}

/// The place of an upload until it is committed.
#[derive(Debug, Clone)]
pub(crate) enum Temporary {
    /// `archive` or `manifest` of a version.
    Version {
        owner: String,
        kind: &'static str,
        storage: String,
        version: String,
    },
    History {
        owner: String,
        hash: String,
    },
}

/// A page of the list of objects.
pub(crate) struct Page {
    /// The names and the sizes of those that are old enough.
    pub(crate) old: Vec<(String, u64)>,
    /// The last key.
    pub(crate) last: Option<String>,
}

impl Temporary {
    fn path(&self) -> String {
        let (owner, rest) = match self {
            Self::Version { owner, kind, storage, version } => {
                (owner, format!("{kind}/{storage}/{version}"))
            }
            Self::History { owner, hash } => (owner, format!("history/{hash}")),
        };
        // `submitter:NAME`.
        format!("uploads/{}/{rest}", owner.replace(':', "/"))
    }
}

impl Objects {
    /// Opens the bucket, and makes sure that it can be used as the platform uses it.
    pub(crate) fn open(config: &s3::Config, prefix: &str, url_lifetime: Duration) -> Result<Self> {
        let bucket = Bucket::new(config.clone()).map_err(failed)?;
        let objects = Self { bucket, prefix: checked(prefix)?, url_lifetime };
        let key = objects.key(&format!("uploads/check/{}", Uuid::new_v4()));
        let check = || {
            // First, as some stores create a bucket that is written to.
            objects.bucket.list(&objects.key("uploads/check/"), "")?;
            objects.bucket.put(&key, b"check")?;
            objects.bucket.stat(&key)?;
            objects.bucket.unfinished(&objects.key("objects/"))?;
            objects.bucket.remove(&key)
        };
        check().map_err(failed)?;
        Ok(objects)
    }

    pub(crate) fn origin(&self) -> String {
        self.bucket.origin()
    }

    /// A new name. An operator's archive has its digest in it, by which it is found again.
    pub(crate) fn name(digest: Option<&str>) -> String {
        let unique = Uuid::new_v4();
        digest.map_or_else(|| unique.to_string(), |digest| format!("{digest}-{unique}"))
    }

    pub(crate) fn download_url(&self, name: &str) -> String {
        self.bucket.presign(Method::Get, &self.object(name), &[], self.url_lifetime)
    }

    /// A URL for an upload, of exactly `length` bytes if that is known.
    pub(crate) fn upload_url(&self, to: &Temporary, length: Option<u64>) -> String {
        let length = length.map(|length| length.to_string());
        let headers: Vec<_> =
            length.iter().map(|length| ("content-length", length.as_str())).collect();
        self.bucket.presign(Method::Put, &self.key(&to.path()), &headers, self.url_lifetime)
    }

    /// What was uploaded.
    pub(crate) fn uploaded(&self, from: &Temporary) -> Result<Option<Stat>> {
        self.bucket.stat(&self.key(&from.path())).map_err(failed)
    }

    /// Copies an upload that is still what it was.
    pub(crate) fn adopt(&self, from: &Temporary, stat: &Stat, name: &str) -> Result<()> {
        let copied = self.bucket.copy(&self.key(&from.path()), &stat.etag, &self.object(name));
        if copied.map_err(failed)? { Ok(()) } else { Err(Refusal::Busy.into()) }
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        self.bucket.put(&self.object(name), content).map_err(failed)
    }

    /// An object's content.
    pub(crate) fn reader(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let object = self.bucket.get(&self.object(name)).map_err(failed)?;
        Ok(object.ok_or(Refusal::Busy)?.reader)
    }

    /// Begins an upload in parts: its id, and a URL for each part.
    pub(crate) fn begin(&self, name: &str, parts: u64) -> Result<(String, Vec<String>)> {
        let key = self.object(name);
        let upload = self.bucket.begin(&key).map_err(failed)?;
        let parts = 1..=u32::try_from(parts).unwrap_or(u32::MAX);
        let url = |part| self.bucket.presign_part(&key, &upload, part, self.url_lifetime);
        let urls = parts.map(url).collect();
        Ok((upload, urls))
    }

    /// Makes an object of all parts of an upload. Whether they were all there.
    pub(crate) fn complete(&self, name: &str, upload: &str, size: u64) -> Result<bool> {
        self.bucket.complete(&self.object(name), upload, size).map_err(failed)
    }

    /// Removes an upload that was committed. If that fails, the timer removes it.
    pub(crate) fn discard(&self, upload: &Temporary) {
        if let Err(error) = self.bucket.remove(&self.key(&upload.path())) {
            log::debug!("cannot remove a committed upload; error={error}");
        }
    }

    /// The objects after a key, of which there may be more if the page is not empty.
    pub(crate) fn page(&self, after: &str, age: Duration) -> Result<Page> {
        let prefix = self.key("objects/");
        let listed = self.bucket.list(&prefix, after).map_err(failed)?;
        let last = listed.last().map(|object| object.key.clone());
        let old = listed.into_iter().filter(|object| is_old(object.modified, age));
        let old = old.filter_map(|Listed { key, size, .. }| {
            key.strip_prefix(&prefix).map(|name| (name.to_owned(), size))
        });
        Ok(Page { old: old.collect(), last })
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.bucket.remove(&self.object(name)).map_err(failed)
    }

    /// Removes uploads that were not committed, and aborts those in parts that were not completed, if they
    /// are older than `age`.
    pub(crate) fn sweep(&self, age: Duration, is_stopped: &dyn Fn() -> bool) -> Result<()> {
        let unfinished = self.bucket.unfinished(&self.key("objects/")).map_err(failed)?;
        for one in unfinished.iter().filter(|one| is_old(one.begun, age)) {
            self.bucket.abort(&one.key, &one.upload).map_err(failed)?;
        }
        let prefix = self.key("uploads/");
        let mut after = String::new();
        loop {
            let listed = self.bucket.list(&prefix, &after).map_err(failed)?;
            let Some(last) = listed.last() else { return Ok(()) };
            after.clone_from(&last.key);
            for object in listed.iter().filter(|object| is_old(object.modified, age)) {
                if is_stopped() {
                    return Ok(());
                }
                self.bucket.remove(&object.key).map_err(failed)?;
            }
        }
    }

    fn object(&self, name: &str) -> String {
        self.key(&format!("objects/{name}"))
    }

    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

fn failed(source: s3::Error) -> Error {
    Error::Store { source: Box::new(source) }
}

/// By the store's clock and this one, which differ by minutes at most.
fn is_old(modified: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(modified).unwrap_or_default() >= age
}

/// A prefix that ends in `/`, or is empty.
fn checked(prefix: &str) -> Result<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let trimmed = prefix.trim_end_matches('/');
    let parts = trimmed.split('/');
    if trimmed.is_empty() {
        return Ok(String::new());
    }
    if prefix.len() > 256
        || !prefix.chars().all(is_good)
        || parts.into_iter().any(|part| matches!(part, "" | "." | ".."))
    {
        return Err(Error::BadPrefix { prefix: prefix.to_owned() });
    }
    Ok(format!("{trimmed}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path_of_plain_names() {
        let good = ["", "/", "fleet", "fleet/", "a/b.c"].map(|prefix| checked(prefix).unwrap());
        assert_eq!(good, ["", "", "fleet/", "fleet/", "a/b.c/"]);
        let bad = ["/a", "a//b", "a/../b", "ä", "a b"].map(checked);
        assert!(bad.iter().all(|prefix| matches!(prefix, Err(Error::BadPrefix { .. }))));
    }
}
