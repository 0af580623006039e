//! The names of an untrusted path.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use crate::{Error, Result};

/// The components of a path, each a file name; empty for the top.
pub(super) fn names(path: &[u8], normalizes: bool) -> Result<Vec<CString>> {
    let refused = || Error::Escape { path: OsStr::from_bytes(path).into() };
    if path.is_empty() {
        return Ok(Vec::new());
    }
    if path.starts_with(b"/") {
        return Err(refused());
    }
    let is_kept = |name: &&[u8]| !(normalizes && matches!(*name, b"" | b"."));
    let name = |name: &[u8]| match name {
        b"" | b"." | b".." => Err(refused()),
        name => CString::new(name).map_err(|_| refused()),
    };
    path.split(|byte| *byte == b'/').filter(is_kept).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_out_of_the_tree_is_an_error() {
        for path in ["/etc", "..", "a/../b", "a/..", "a\0b"] {
            assert!(names(path.as_bytes(), false).is_err(), "{path:?}");
            assert!(names(path.as_bytes(), true).is_err(), "{path:?}");
        }
    }

    #[test]
    fn empty_and_dot_components_are_errors_unless_paths_are_normalized() {
        for path in ["a//b", "a/./b", "./a/b", "a/b/"] {
            assert!(names(path.as_bytes(), false).is_err(), "{path:?}");
            assert_eq!(names(path.as_bytes(), true).unwrap(), [c"a".to_owned(), c"b".to_owned()]);
        }
    }
}
