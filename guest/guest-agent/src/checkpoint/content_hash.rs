//! The content hash of a storage's files, which is the id of a version.

use sha2::{Digest as _, Sha256};

use super::pack::PackedFile;

const DOMAIN: &[u8] = b"vm0-storage-content-hash-v2\0";

/// The hash of a storage's files. `files` must be sorted by path.
pub(super) fn of(storage_id: &str, files: &[PackedFile]) -> String {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    add_text(&mut hash, storage_id);
    hash.update(length(files.len()));
    for file in files {
        add_text(&mut hash, &file.path);
        hash.update(file.digest);
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
        assert_eq!(of(STORAGE, &[]), empty);
        let file = PackedFile { path: "a.txt".into(), digest: [0xaa; 32], size: 1 };
        let one = "b7c8d9f8fe72381faeeeff30bab820e075ff048240f16ccc3ecec23e6ab32918";
        assert_eq!(of(STORAGE, &[file]), one);
    }
}
