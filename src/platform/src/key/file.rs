//! The key file, which the platforms of a shared database have in common.
//!
//! A text with a key of 64 hex digits in each line; lines that begin with `#` are comments. A file of
//! exactly 32 bytes is one key, as they are.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base::hex;

use super::{Key, random};
use crate::error::file;
use crate::{Error, Result, folder};

/// The largest key file, in bytes.
const LARGEST: u64 = 64 << 10;

/// The most keys: each signature is compared with that of each key.
const MOST_KEYS: usize = 16;

/// Reads the keys. A file that other users may read is rejected.
pub(super) fn read(path: &Path) -> Result<Vec<[u8; 32]>> {
    let fail = |source| file("read", path)(source);
    let open = File::open(path).map_err(fail)?;
    // That of the open file: the path may name another one by now.
    let mode = open.metadata().map_err(fail)?.mode();
    if mode & 0o077 != 0 {
        return Err(Error::KeyReadable { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    open.take(LARGEST).read_to_end(&mut bytes).map_err(fail)?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<[u8; 32]>> {
    if let Ok(key) = bytes.try_into() {
        return Ok(vec![key]);
    }
    let mut keys = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = std::str::from_utf8(line).ok().and_then(hex::decode);
        keys.push(key.ok_or_else(|| Error::BadKeyLine { path: path.to_owned(), line: index + 1 })?);
    }
    if keys.len() > MOST_KEYS {
        return Err(Error::ManyKeys { path: path.to_owned(), most: MOST_KEYS });
    }
    Ok(keys)
}

/// Adds a new key at the end of a key file, and makes a missing file. Returns the public names of its
/// keys.
pub fn add_key(path: &Path) -> Result<Vec<String>> {
    let mut keys = match read(path) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    if keys.len() >= MOST_KEYS {
        return Err(Error::ManyKeys { path: path.to_owned(), most: MOST_KEYS });
    }
    keys.push(random()?);
    let lines: String = keys.iter().map(|key| hex::encode(key) + "\n").collect();
    let head = "# Keys of platforms with a shared database: the first seals and signs, all open and verify.\n";
    folder::write(path, format!("{head}{lines}").as_bytes())?;
    Ok(keys.into_iter().map(|key| Key::derived(key).id).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("/keys"), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn keys_are_added_behind_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");

        let one = add_key(&path).unwrap();
        let first = read(&path).unwrap();
        let two = add_key(&path).unwrap();

        assert_eq!(one, two[..1]);
        assert_eq!(read(&path).unwrap()[..1], first);
        assert_eq!(read(&path).unwrap().len(), 2);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn thirty_two_bytes_are_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        folder::write(&path, &[b'\n'; 32]).unwrap();

        assert_eq!(read(&path).unwrap(), [[b'\n'; 32]]);
    }

    #[test]
    fn a_file_that_others_may_read_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        add_key(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();

        assert!(matches!(read(&path), Err(Error::KeyReadable { .. })));
    }

    #[test]
    fn a_malformed_line_is_named_without_its_content() {
        let text = refused(&format!("# ours\n{}\nnot-a-key\n", "a".repeat(64)));

        assert_eq!(text, "line 3 of /keys is not a key of 64 hex digits");
        assert!(refused(&"a".repeat(63)).starts_with("line 1"));
        assert!(refused(&"é".repeat(32)).starts_with("line 1"));
        assert!(refused(&format!("{}\n", "a".repeat(64)).repeat(17)).contains("more than 16 keys"));
    }
}
