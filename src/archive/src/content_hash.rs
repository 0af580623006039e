//! The content hash of a storage's files, which is the id of a version.

use sha2::{Digest as _, Sha256};

const DOMAIN: &[u8] = b"vm0-storage-content-hash-v2\0";

/// The hash, in hex, of a storage's id and the paths and SHA-256 digests of its files, in any order.
pub fn content_hash<'a>(
    storage: &str,
    files: impl IntoIterator<Item = (&'a str, [u8; 32])>,
) -> String {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable();
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    add_text(&mut hash, storage);
    hash.update(length(files.len()));
    for (path, digest) in files {
        add_text(&mut hash, path);
        hash.update(digest);
    }
    base::hex::encode(&hash.finalize())
}

fn add_text(hash: &mut Sha256, text: &str) {
    hash.update(length(text.len()));
    hash.update(text.as_bytes());
}

fn length(count: usize) -> [u8; 4] {
    // The limits on files and paths are far below.
    u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: &str = "01234567-89ab-cdef-0123-456789abcdef";

    #[test]
    fn the_hash_matches_the_vectors_of_the_contract() {
        let empty = "afde087ee3ce79ab8360daf49e5f68fe1bbb49153775fff6eff5e7ccd7ecdb57";
        assert_eq!(content_hash(STORAGE, []), empty);
        let one = "b7c8d9f8fe72381faeeeff30bab820e075ff048240f16ccc3ecec23e6ab32918";
        assert_eq!(content_hash(STORAGE, [("a.txt", [0xaa; 32])]), one);
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        let (one, other) = (("a/b", [0; 32]), ("a.b", [0x11; 32]));

        assert_eq!(content_hash(STORAGE, [one, other]), content_hash(STORAGE, [other, one]));
    }
}
