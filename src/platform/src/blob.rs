//! A content-addressed store: files named by their SHA-256.
//!
//! An upload is written to `partial/`, flushed, and renamed to its digest, so a file in `blobs/` is
//! always complete. Concurrent uploads of the same content use separate files until the rename, which
//! either may win.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base::hex;
use sha2::{Digest, Sha256};

use crate::error::file;
use crate::{Refusal, Result, folder};

/// The size of one read or write.
pub(crate) const CHUNK: usize = 128 * 1024;

/// A source of bytes.
pub(crate) trait Input {
    /// Reads some bytes; 0 at the end.
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize>;
}

/// A stored blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// All blobs of a platform.
pub(crate) struct Blobs {
    root: PathBuf,
    partial: PathBuf,
    next: AtomicU64,
}

impl Blobs {
    pub(crate) fn new(root: PathBuf, partial: PathBuf) -> Self {
        Self { root, partial, next: AtomicU64::new(0) }
    }

    /// Receives at most `limit` bytes, and passes each piece to `look`. [`Incoming::keep`] stores them.
    pub(crate) fn receive(
        &self,
        input: &mut dyn Input,
        limit: u64,
        look: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Incoming<'_>> {
        let mut incoming = self.incoming()?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = input.take(&mut buffer)?;
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else {
                return Ok(incoming);
            };
            incoming.size += piece.len() as u64;
            if incoming.size > limit {
                return Err(Refusal::TooLarge { limit, unit: "bytes" }.into());
            }
            look(piece)?;
            incoming.hasher.update(piece);
            incoming.open.write_all(piece).map_err(file("write", &incoming.path))?;
        }
    }

    /// Opens content; `None` if there is none of that digest.
    pub(crate) fn open(&self, digest: &str) -> Result<Option<File>> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(file("open", &path)),
        }
    }

    /// Whether a blob with this digest exists.
    pub(crate) fn has(&self, digest: &str) -> bool {
        self.path(digest).exists()
    }

    /// The blobs that are older than `age`.
    pub(crate) fn older_than(&self, age: Duration) -> Result<Vec<Blob>> {
        let mut found = Vec::new();
        for folder in folder::entries(&self.root)? {
            for path in folder::entries(&folder)? {
                let metadata = fs::metadata(&path).map_err(file("read", &path))?;
                let kept = metadata.modified().map_err(file("read", &path))?;
                let is_old = SystemTime::now().duration_since(kept).unwrap_or_default() >= age;
                let name = path.file_name().and_then(|name| name.to_str());
                if let Some(name) = name.filter(|_| is_old) {
                    found.push(Blob { digest: name.to_owned(), size: metadata.len() });
                }
            }
        }
        Ok(found)
    }

    /// Removes content.
    pub(crate) fn remove(&self, digest: &str) -> Result<()> {
        folder::remove(&self.path(digest))
    }

    fn incoming(&self) -> Result<Incoming<'_>> {
        let path = self.partial.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let open = options.open(&path).map_err(file("create", &path))?;
        Ok(Incoming { blobs: self, open, path, hasher: Sha256::new(), size: 0 })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.root.join(digest.get(..2).unwrap_or_default()).join(digest)
    }
}

/// Received content that is not stored yet. Dropping it removes it.
pub(crate) struct Incoming<'a> {
    blobs: &'a Blobs,
    open: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
}

impl Incoming<'_> {
    /// The SHA-256 of the received bytes.
    pub(crate) fn digest(&self) -> String {
        hex::encode(&self.hasher.clone().finalize())
    }

    /// Stores the content durably under its digest.
    pub(crate) fn keep(self) -> Result<Blob> {
        let blob = Blob { digest: self.digest(), size: self.size };
        let path = self.blobs.path(&blob.digest);
        if let Some(parent) = path.parent() {
            folder::make(parent)?;
            // Another upload may have made it, and not be that far yet.
            folder::flush(&self.blobs.root)?;
        }
        folder::publish(&self.path, &path)?;
        Ok(blob)
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // After `keep` the name is gone already.
        if let Err(error) = folder::remove(&self.path) {
            log::warn!("cannot remove a partial upload; error={}", base::error::chain(&error));
        }
    }
}

impl Input for http_server::Body<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.read_some(buffer)?)
    }
}

impl Input for &[u8] {
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = io::Read::read(self, buffer).unwrap_or(0);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(dir: &std::path::Path) -> Blobs {
        fs::create_dir(dir.join("blobs")).unwrap();
        fs::create_dir(dir.join("partial")).unwrap();
        Blobs::new(dir.join("blobs"), dir.join("partial"))
    }

    fn receive<'a>(blobs: &'a Blobs, mut bytes: &[u8], limit: u64) -> Result<Incoming<'a>> {
        blobs.receive(&mut bytes, limit, &mut |_| Ok(()))
    }

    #[test]
    fn a_stored_blob_is_found_by_its_digest_and_its_partial_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());

        let blob = receive(&blobs, b"content", 100).unwrap().keep().unwrap();

        assert_eq!(blob.digest, hex::encode(&Sha256::digest("content")));
        let open = blobs.open(&blob.digest).unwrap().unwrap();
        assert_eq!(io::read_to_string(open).unwrap(), "content");
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn a_dropped_upload_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());

        let digest = receive(&blobs, b"content", 100).unwrap().digest();

        assert!(!blobs.has(&digest));
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn an_upload_over_the_limit_is_rejected_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());

        assert!(receive(&blobs, b"content", 6).is_err());
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn concurrent_uploads_of_the_same_content_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        let one = receive(&blobs, b"content", 100).unwrap();
        let other = receive(&blobs, b"content", 100).unwrap();

        assert_eq!(one.keep().unwrap(), other.keep().unwrap());
        assert_eq!(blobs.older_than(Duration::ZERO).unwrap().len(), 1);
    }
}
