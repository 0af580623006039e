//! SHA-256: of files, of streams while they are read, and of the inputs that
//! make up a cache key. SHA-512 where a registry has it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::error::{Error, Result};

/// The digest of a whole file, in hex.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let mut reader = Hashing::new(File::open(path).map_err(fail)?);
    reader.drain().map_err(fail)?;
    Ok(reader.finish().0)
}

/// The digest of a whole file as npm's registries and lock files write it: `sha512-BASE64`.
pub(crate) fn integrity_of_file(path: &Path) -> Result<String> {
    let mut hash = Sha512::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hash))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(format!("sha512-{}", STANDARD.encode(hash.finalize())))
}

/// The digest of bytes in memory, in hex.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A reader that hashes and counts what passes through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new(), length: 0 }
    }

    /// Reads the rest, so that the digest covers all of the input.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        while self.read(&mut buffer)? != 0 {}
        Ok(())
    }

    /// Digest in hex and length of what was read.
    pub(crate) fn finish(self) -> (String, u64) {
        (format!("{:x}", self.hash.finalize()), self.length)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.length += count as u64;
        Ok(count)
    }
}

/// Collects the inputs of a cached thing into its key. Each part is preceded by
/// its length, so no two lists of parts run into each other.
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new(kind: &str) -> Key {
        Key(Sha256::new()).part(kind)
    }

    pub(crate) fn part(mut self, part: impl AsRef<[u8]>) -> Key {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn finish(self) -> String {
        format!("{:x}", self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_hashing_reader_covers_all_bytes() {
        let mut reader = Hashing::new(&b"abc"[..]);
        reader.read_exact(&mut [0; 1]).unwrap();

        reader.drain().unwrap();

        assert_eq!(reader.finish(), (of_bytes(b"abc"), 3));
    }

    #[test]
    fn a_digest_of_bytes_is_sha256_in_hex() {
        assert!(of_bytes(b"abc").starts_with("ba7816bf8f01cfea414140de5dae2223"));
    }

    #[test]
    fn a_key_depends_on_the_boundaries_of_its_parts() {
        let one = Key::new("k").part("ab").part("c").finish();
        let two = Key::new("k").part("a").part("bc").finish();

        assert_ne!(one, two);
    }
}
