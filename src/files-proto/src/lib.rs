//! The requests and replies of `guest-files`, the program that does file operations in a guest.
//!
//! One run of the program serves one [`Request`], a JSON document on the first line of its standard
//! input. It answers with one [`Reply`] a line on its standard output:
//!
//! | request | replies |
//! |---|---|
//! | `account` | `account`, `done` |
//! | `stat`, `make_dir`, `move` | `entry`, `done` |
//! | `list` | `entry` for each, folders before what is in them, `done` |
//! | `remove`, `set_attributes` | `done` |
//! | `read` | `entry`, followed by the content up to the end of the output; the exit code says whether it is complete |
//! | `write`, followed by the content up to the end of the input | `entry`, `done` |
//! | `watch` | `watching`, then `event` for each change; an error is its only end |
//! | any | `error`, which is the last reply; none in the content of a `read` |
//!
//! A watch answers each further line of its input with `synced`, after the events of all changes that
//! were made before.
//!
//! Paths are UTF-8. A name that is not is sent with U+FFFD in place of each wrong sequence, and counted
//! in [`Summary::lossy_names`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the program is in the guest.
pub const PROGRAM: &str = "/usr/local/bin/guest-files";

/// The largest request in bytes.
pub const MAX_REQUEST: usize = 64 << 10;

/// The largest reply in bytes: three paths of 4096 bytes and the attributes, of which JSON makes up to
/// six times as many.
pub const MAX_REPLY: usize = 256 << 10;

/// How many bytes of names and values of attributes an entry has at most; further ones are left out.
pub const MAX_ATTRIBUTES: usize = 16 << 10;

/// How many entries a list has at most.
pub const MAX_ENTRIES: usize = 100_000;

/// An operation. A relative path is below the user's home, as `~` and a path that begins with `~/` are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Describes the user.
    Account {},
    /// Describes a file.
    Stat {
        /// The file.
        path: String,
        /// Whether a link is followed.
        #[serde(default)]
        follow: bool,
    },
    /// Describes what is in a folder. Links in it are not followed.
    List {
        /// The folder, or a link to it.
        path: String,
        /// 1 for the folder's own entries, 2 for those of its folders too.
        depth: u32,
    },
    /// Makes a folder and the missing ones above it.
    MakeDir {
        /// The folder.
        path: String,
    },
    /// Renames a file or folder, and makes the missing folders above its new path. A file that is there
    /// is replaced.
    Move {
        /// The present path.
        source: String,
        /// The new path.
        destination: String,
    },
    /// Removes a file, a link or a folder with its content. No link is followed.
    Remove {
        /// The file, link or folder.
        path: String,
    },
    /// Replaces the attributes of a file whose names have a prefix.
    SetAttributes {
        /// The file; a link is followed.
        path: String,
        /// Others are left as they are. It is not part of the names in `attributes`.
        prefix: String,
        /// The values by name.
        attributes: BTreeMap<String, String>,
    },
    /// Empties or makes a file and the missing folders above it, and writes the content in place: a watch
    /// sees its begin. An error leaves what was written.
    Write {
        /// The file; a link is followed.
        path: String,
        /// The attributes that replace those with their prefix.
        #[serde(default)]
        attributes: Option<Attributes>,
    },
    /// Reads a file.
    Read {
        /// The file; a link is followed.
        path: String,
        /// The first byte.
        offset: u64,
        /// How many bytes at most; all to the end if nothing is said.
        #[serde(default)]
        length: Option<u64>,
    },
    /// Reports changes in a folder until the program is ended.
    Watch {
        /// The folder, or a link to it.
        path: String,
        /// What is reported.
        #[serde(default)]
        scope: WatchScope,
    },
}

/// Extended attributes of the `user.` namespace whose names have a prefix in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attributes {
    /// The prefix, which is not part of the names in `values`.
    pub prefix: String,
    /// The values by name.
    pub values: BTreeMap<String, String>,
}

/// What a watch reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchScope {
    /// Whether folders in the folder are watched too, new ones included.
    pub recursive: bool,
    /// Whether events have the entry, where there still is one.
    pub include_entry: bool,
    /// Whether a folder on a network or FUSE file system is accepted, where the kernel does not report all
    /// changes.
    pub allow_network: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The user.
    Account(Account),
    /// A file.
    Entry(Entry),
    /// Changes from now on are reported.
    Watching {},
    /// A change.
    Event(Event),
    /// All changes that were made before the request for this have been reported.
    Synced {},
    /// The operation succeeded.
    Done(Summary),
    /// The operation failed.
    Error(Failure),
}

/// The user that the program runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The user's id.
    pub uid: u32,
    /// The id of the user's group.
    pub gid: u32,
    /// The absolute path to which others are relative.
    pub home: String,
}

/// What an operation did, besides its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Whether a folder to be made was there already.
    pub existed: bool,
    /// How many names were not UTF-8.
    pub lossy_names: u64,
    /// How many folders of a list the user may not read.
    pub unreadable: u64,
}

/// A file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last part of the path; `/` for the root.
    pub name: String,
    /// The absolute path, as it was asked for.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The size in bytes.
    pub size: u64,
    /// Permission bits, with those for set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// The type and the mode as `ls -l` prints them: `-rw-r--r--`.
    pub permissions: String,
    /// The owner's name, or the id if it has none.
    pub owner: String,
    /// The group's name, or the id if it has none.
    pub group: String,
    /// When the content was last changed: RFC 3339, UTC, with nanoseconds.
    pub modified: String,
    /// Extended attributes of the `user.` namespace, by their names in it, as far as they are UTF-8.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Other,
}

/// A symbolic link's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The text in the link.
    pub target: String,
    /// What it leads to in the end; nothing if it dangles or the user may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// An absolute path without links.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Permission bits, as in [`Entry::mode`].
    pub mode: u32,
}

/// A change in a watched folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The path of what changed, relative to the watched folder; `.` for the folder itself.
    pub name: String,
    /// What changed.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The entry after the change, if it was asked for and is there; never for removed and renamed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It is new, or has a new name.
    Create,
    /// Its content was changed.
    Write,
    /// It was removed.
    Remove,
    /// It was moved away from this name.
    Rename,
    /// Its mode, owner or times were changed.
    Chmod,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people: the operation, its operand and the cause.
    pub message: String,
}

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is malformed, or makes no sense.
    InvalidArgument,
    /// There is no such file.
    NotFound,
    /// There is a file already.
    AlreadyExists,
    /// The user may not do that.
    PermissionDenied,
    /// A file is where a folder is needed.
    NotADirectory,
    /// A folder is where a file is needed.
    IsADirectory,
    /// A folder to be replaced has content.
    NotEmpty,
    /// Links lead in a circle.
    TooManyLinks,
    /// The new path is on another file system.
    CrossDevice,
    /// A name or path is too long.
    NameTooLong,
    /// The disk is full, or the user's quota of it.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// The file is in use: a mount point, for one.
    Busy,
    /// The file system cannot do it.
    Unsupported,
    /// A list or a watch has more entries than allowed.
    TooMany,
    /// More changes came than could be reported; some are lost.
    Overflow,
    /// The watched folder was removed, moved or unmounted.
    Gone,
    /// Any other error.
    #[serde(other)]
    Internal,
}

impl Code {
    /// The code of an error number of Linux.
    pub fn of(errno: i32) -> Self {
        match errno {
            1 | 13 => Self::PermissionDenied,
            2 => Self::NotFound,
            16 => Self::Busy,
            17 => Self::AlreadyExists,
            18 => Self::CrossDevice,
            20 => Self::NotADirectory,
            21 => Self::IsADirectory,
            22 => Self::InvalidArgument,
            28 | 122 => Self::NoSpace,
            30 => Self::ReadOnly,
            36 => Self::NameTooLong,
            39 => Self::NotEmpty,
            40 => Self::TooManyLinks,
            95 => Self::Unsupported,
            _ => Self::Internal,
        }
    }
}

/// The absolute path that a user with this home means; `None` if the path is empty or has a zero byte.
pub fn absolute(home: &str, path: &str) -> Option<String> {
    if path.is_empty() || path.contains('\0') {
        return None;
    }
    let below_home = match path {
        "~" => "",
        _ => path.strip_prefix("~/").unwrap_or(path),
    };
    let joined =
        if path.starts_with('/') { path.to_owned() } else { format!("{home}/{below_home}") };
    // `..` stays: behind a link it leads elsewhere than the text says.
    let parts: Vec<&str> = joined.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_the_home_unless_it_is_absolute() {
        let path = |path| absolute("/home/user", path);
        assert_eq!(path("a/./b//c/").as_deref(), Some("/home/user/a/b/c"));
        assert_eq!(path(".").as_deref(), Some("/home/user"));
        assert_eq!(path("~").as_deref(), Some("/home/user"));
        assert_eq!(path("~/a").as_deref(), Some("/home/user/a"));
        assert_eq!(path("~a").as_deref(), Some("/home/user/~a"));
        assert_eq!(path("/a/../b").as_deref(), Some("/a/../b"));
        assert_eq!(path("/").as_deref(), Some("/"));
        assert_eq!(absolute("/", "a").as_deref(), Some("/a"));
        assert_eq!(path(""), None);
        assert_eq!(path("a\0b"), None);
    }

    #[test]
    fn a_request_is_what_the_documentation_shows() {
        let request: Request = serde_json::from_str(r#"{"list":{"path":"x","depth":2}}"#).unwrap();
        assert_eq!(request, Request::List { path: "x".into(), depth: 2 });
        assert!(serde_json::from_str::<Request>(r#"{"stat":{"path":"x","other":1}}"#).is_err());
    }

    #[test]
    fn a_failure_is_an_error_with_code_and_message() {
        let failure = Failure { code: Code::NotFound, message: "no".into() };
        let text = serde_json::to_string(&Reply::Error(failure)).unwrap();
        assert_eq!(text, r#"{"error":{"code":"not_found","message":"no"}}"#);
    }

    #[test]
    fn a_code_of_a_later_version_is_internal() {
        let failure: Failure = serde_json::from_str(r#"{"code":"new","message":""}"#).unwrap();
        assert_eq!(failure.code, Code::Internal);
    }
}
