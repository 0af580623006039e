//! The description of a file, as clients know it.

use serde_json::{Value, json};

use crate::files::{Entry, Event, EventKind, Kind};

/// The prefix of extended attributes that are a file's metadata.
pub(super) const METADATA: &str = "e2b.";

/// An entry. A link has the type and the mode of what it leads to.
pub(super) fn entry(entry: &Entry) -> Value {
    let (kind, mode) = match (&entry.link, entry.kind) {
        (Some(link), _) => match &link.resolved {
            Some(resolved) => (kind_name(resolved.kind), resolved.mode),
            None => (kind_name(Kind::Other), entry.mode),
        },
        (None, kind) => (kind_name(kind), entry.mode),
    };
    let mut shown = json!({
        "name": entry.name,
        "type": kind,
        "path": entry.path,
        "size": entry.size.to_string(),
        "mode": mode & 0o777,
        "permissions": permissions(entry),
        "owner": entry.owner,
        "group": entry.group,
        "modifiedTime": entry.modified,
    });
    if let Some(link) = &entry.link {
        let target = link.resolved.as_ref().map_or(&link.target, |resolved| &resolved.path);
        shown["symlinkTarget"] = json!(target);
    }
    let metadata = metadata(entry);
    if !metadata.is_empty() {
        shown["metadata"] = Value::Object(metadata);
    }
    shown
}

fn metadata(entry: &Entry) -> serde_json::Map<String, Value> {
    let named = entry.attributes.iter();
    let metadata = named.filter_map(|(name, value)| Some((name.strip_prefix(METADATA)?, value)));
    metadata.map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// A change.
pub(super) fn event(event: &Event) -> Value {
    let kind = match event.kind {
        EventKind::Create => "EVENT_TYPE_CREATE",
        EventKind::Write => "EVENT_TYPE_WRITE",
        EventKind::Remove => "EVENT_TYPE_REMOVE",
        EventKind::Rename => "EVENT_TYPE_RENAME",
        EventKind::Chmod => "EVENT_TYPE_CHMOD",
    };
    let mut shown = json!({"name": event.name, "type": kind});
    if let Some(changed) = &event.entry {
        shown["entry"] = entry(changed);
    }
    shown
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "FILE_TYPE_FILE",
        Kind::Dir => "FILE_TYPE_DIRECTORY",
        Kind::Symlink => "FILE_TYPE_SYMLINK",
        Kind::Other => "FILE_TYPE_UNSPECIFIED",
    }
}

/// Type and mode as Go prints them: `-rw-r--r--`, `Lrwxrwxrwx`, `dtrwxrwxrwx`.
fn permissions(entry: &Entry) -> String {
    let mut text = String::new();
    text.push_str(match (entry.kind, entry.permissions.chars().next()) {
        (Kind::Dir, _) => "d",
        (Kind::Symlink, _) => "L",
        (Kind::Other, Some('p')) => "p",
        (Kind::Other, Some('s')) => "S",
        (Kind::Other, Some('b')) => "D",
        (Kind::Other, Some('c')) => "Dc",
        _ => "",
    });
    let special = [(0o4000, 'u'), (0o2000, 'g'), (0o1000, 't')];
    text.extend(special.iter().filter(|(bit, _)| entry.mode & bit != 0).map(|(_, letter)| letter));
    if text.is_empty() {
        text.push('-');
    }
    let letters = "rwxrwxrwx".chars().enumerate();
    text.extend(
        letters
            .map(|(place, letter)| if entry.mode & (0o400 >> place) != 0 { letter } else { '-' }),
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::files::{Link, Resolved};

    fn file() -> Entry {
        Entry {
            name: "a".into(),
            path: "/a".into(),
            kind: Kind::File,
            size: 4,
            mode: 0o644,
            permissions: "-rw-r--r--".into(),
            owner: "user".into(),
            group: "user".into(),
            modified: "2026-11-28T21:00:00.500000000Z".into(),
            attributes: BTreeMap::new(),
            link: None,
        }
    }

    #[test]
    fn a_file_has_its_size_as_text_and_no_empty_fields() {
        let expected = json!({
            "name": "a", "type": "FILE_TYPE_FILE", "path": "/a", "size": "4", "mode": 420,
            "permissions": "-rw-r--r--", "owner": "user", "group": "user",
            "modifiedTime": "2026-11-28T21:00:00.500000000Z",
        });
        assert_eq!(entry(&file()), expected);
    }

    #[test]
    fn a_link_has_the_type_of_what_it_leads_to() {
        let resolved = Resolved { path: "/b".into(), kind: Kind::Dir, mode: 0o755 };
        let link = |resolved| Some(Link { target: "../b".into(), resolved });
        let mut it =
            Entry { kind: Kind::Symlink, mode: 0o777, link: link(Some(resolved)), ..file() };
        let shown = entry(&it);
        assert_eq!(shown["type"], "FILE_TYPE_DIRECTORY");
        assert_eq!((&shown["mode"], &shown["symlinkTarget"]), (&json!(0o755), &json!("/b")));
        assert_eq!(shown["permissions"], "Lrwxrwxrwx");

        it.link = link(None);
        assert_eq!(entry(&it)["type"], "FILE_TYPE_UNSPECIFIED");
    }

    #[test]
    fn metadata_are_the_attributes_with_the_prefix() {
        let attributes = [("e2b.color", "red"), ("other", "x")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let it = Entry { attributes: attributes.into(), ..file() };
        assert_eq!(entry(&it)["metadata"], json!({"color": "red"}));
    }

    #[test]
    fn special_bits_stand_before_the_mode() {
        let shown = |kind, mode, permissions: &str| {
            super::permissions(&Entry { kind, mode, permissions: permissions.into(), ..file() })
        };
        assert_eq!(shown(Kind::Dir, 0o1777, "drwxrwxrwt"), "dtrwxrwxrwx");
        assert_eq!(shown(Kind::File, 0o4755, "-rwsr-xr-x"), "urwxr-xr-x");
        assert_eq!(shown(Kind::Other, 0o600, "crw-------"), "Dcrw-------");
    }
}
