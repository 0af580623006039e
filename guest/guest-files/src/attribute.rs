//! Extended attributes of the `user.` namespace.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use files_proto::{MAX_ATTRIBUTES, Summary};

use crate::error::failed;
use crate::{Context, Result};

const NAMESPACE: &str = "user.";

/// The attributes of a file, by their names in the namespace; none where they cannot be read.
pub(crate) fn read(path: &Path) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let mut room = MAX_ATTRIBUTES;
    for name in names(path).unwrap_or_default() {
        let full = format!("{NAMESPACE}{name}");
        // It may be removed meanwhile, or be no text.
        let value =
            xattr::get_deref(path, full).ok().flatten().and_then(|it| String::from_utf8(it).ok());
        if let Some(value) = value
            && let Some(left) = room.checked_sub(name.len() + value.len())
        {
            room = left;
            attributes.insert(name, value);
        }
    }
    attributes
}

/// Replaces the attributes whose names begin with `prefix`.
pub(crate) fn set<W: Write>(
    context: &mut Context<'_, W>,
    path: &str,
    prefix: &str,
    attributes: &BTreeMap<String, String>,
) -> Result<Summary> {
    let path = context.absolute(path)?;
    replace(&path, prefix, attributes).map_err(failed("set the attributes of", &path))?;
    Ok(Summary::default())
}

pub(crate) fn replace(
    path: &Path,
    prefix: &str,
    attributes: &BTreeMap<String, String>,
) -> io::Result<()> {
    let present = match names(path) {
        Err(error) if error.kind() == ErrorKind::Unsupported && attributes.is_empty() => Vec::new(),
        names => names?,
    };
    for name in present.iter().filter_map(|name| name.strip_prefix(prefix)) {
        if !attributes.contains_key(name) {
            xattr::remove_deref(path, format!("{NAMESPACE}{prefix}{name}"))?;
        }
    }
    for (name, value) in attributes {
        xattr::set_deref(path, format!("{NAMESPACE}{prefix}{name}"), value.as_bytes())?;
    }
    Ok(())
}

/// The names in the namespace; a link is followed.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let names = xattr::list_deref(path)?.filter_map(|name| name.into_string().ok());
    Ok(names.filter_map(|name| name.strip_prefix(NAMESPACE).map(str::to_owned)).collect())
}
