//! The name of a storage's version: a hash of the storage's id and of the paths and digests of its
//! regular files.

use base::hex;
use serde::{Deserialize, Serialize};

use crate::Refusal;

/// The most files that a version may have.
pub(crate) const MOST_FILES: usize = 50_000;

/// The longest path, as Linux has it.
const LONGEST_PATH: usize = 4096;

/// A regular file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path from the storage's root.
    pub path: String,
    /// SHA-256 of its content, in hex.
    pub hash: String,
    /// Its length in bytes.
    pub size: u64,
}

/// The content hash of a version, in hex.
pub(crate) fn content_hash(storage: &str, files: &[FileEntry]) -> Result<String, Refusal> {
    if files.len() > MOST_FILES {
        return Err(Refusal::TooLarge { limit: MOST_FILES as u64, unit: "files" });
    }
    let mut entries: Vec<(&str, [u8; 32])> = Vec::with_capacity(files.len());
    for file in files {
        check_path(&file.path)?;
        let digest = hex::decode::<32>(&file.hash)
            .ok_or_else(|| Refusal::bad("a file's hash is not 64 lower-case hex digits"))?;
        entries.push((file.path.as_str(), digest));
    }
    entries.sort_unstable();
    if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Refusal::bad("a file is listed twice"));
    }
    Ok(archive::content_hash(storage, entries))
}

fn check_path(path: &str) -> Result<(), Refusal> {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if path.len() > LONGEST_PATH || path.contains('\0') || !path.split('/').all(plain) {
        return Err(Refusal::bad("a file's path is not relative, or has `.`, `..` or empty parts"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn entry(path: &str, byte: &str) -> FileEntry {
        FileEntry { path: path.into(), hash: byte.repeat(32), size: 1 }
    }

    #[test]
    fn the_hash_of_no_files_matches_the_contract() {
        assert_eq!(
            content_hash(STORAGE, &[]).unwrap(),
            "afde087ee3ce79ab8360daf49e5f68fe1bbb49153775fff6eff5e7ccd7ecdb57"
        );
    }

    #[test]
    fn the_hash_of_one_file_matches_the_contract() {
        assert_eq!(
            content_hash(STORAGE, &[entry("a.txt", "aa")]).unwrap(),
            "b7c8d9f8fe72381faeeeff30bab820e075ff048240f16ccc3ecec23e6ab32918"
        );
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        let (one, other) = (entry("a/b", "00"), entry("a.b", "11"));

        let hash = content_hash(STORAGE, &[one.clone(), other.clone()]).unwrap();

        assert_eq!(content_hash(STORAGE, &[other, one]).unwrap(), hash);
    }

    #[test]
    fn invalid_paths_hashes_and_duplicates_are_rejected() {
        let bad = ["", "/a", "a/../b", "a//b", "a/", ".", "a\0"];
        let accepted = bad.iter().filter(|path| content_hash("s", &[entry(path, "00")]).is_ok());

        assert_eq!(accepted.count(), 0);
        assert!(content_hash("s", &[entry("a", "0G")]).is_err());
        assert!(content_hash("s", &[entry("a", "00"), entry("a", "11")]).is_err());
    }
}
