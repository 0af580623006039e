//! The user of a command: lookups in `/etc/passwd` and `/etc/group`.
//!
//! Parsed here rather than by libc, whose lookups load modules of the image and ask the network.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use process::Credentials;
use vsock_proto::{Failure, User};

use crate::failure::{failed, refused};

/// The size limit of an accounts file.
const LIMIT: u64 = 4 << 20;

/// The invalid id, -1.
const INVALID_ID: u32 = u32::MAX;

/// The user's properties that a command gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: OsString,
    pub(crate) home: PathBuf,
    /// `None` keeps the service's own.
    pub(crate) credentials: Option<Credentials>,
}

/// The account of `user`; root's if there is none, as far as `/etc/passwd` knows it.
pub(crate) fn find(root: &Path, user: Option<&User>) -> Result<Account, Failure> {
    match user {
        None => {
            let (name, home) = describe(root, 0);
            let credentials = None;
            Ok(Account { name, home, credentials })
        }
        // To the kernel this number means "as it is", which is root.
        Some(User::Ids { uid: INVALID_ID, .. } | User::Ids { gid: INVALID_ID, .. }) => {
            Err(refused(Errno::EINVAL, format!("{INVALID_ID} cannot be the id of a user or group")))
        }
        Some(User::Ids { uid, gid }) => {
            let (name, home) = describe(root, *uid);
            let credentials = Some(Credentials { uid: *uid, gid: *gid, groups: Vec::new() });
            Ok(Account { name, home, credentials })
        }
        Some(User::Name(user)) => lookup(root, user),
        Some(User::InGroup { user, group }) => {
            let mut account = lookup(root, user)?;
            if let Some(credentials) = &mut account.credentials {
                credentials.gid = group_id(root, group)?;
                credentials.groups = vec![credentials.gid];
            }
            Ok(account)
        }
    }
}

/// The account of a name, or else of a number.
fn lookup(root: &Path, user: &str) -> Result<Account, Failure> {
    let path = root.join("etc/passwd");
    let id = number(user.as_bytes());
    let passwd = match load(&path) {
        // A number needs no record.
        Err(_) if id.is_some() => Vec::new(),
        loaded => loaded?,
    };
    let by_name = records(&passwd).find(|record| record.name == user.as_bytes());
    let record = by_name.or_else(|| records(&passwd).find(|record| Some(record.uid) == id));
    let (name, uid, gid, home) = match (record, id) {
        (Some(record), _) => (record.name, record.uid, record.gid, record.home),
        (None, Some(id)) => (user.as_bytes(), id, id, &b""[..]),
        (None, None) => {
            let message = format!("no user `{user}` in {}", path.display());
            return Err(refused(Errno::EINVAL, message));
        }
    };
    let group = load(&root.join("etc/group")).unwrap_or_default();
    Ok(Account {
        name: OsStr::from_bytes(name).to_owned(),
        home: path_of(home),
        credentials: Some(Credentials { uid, gid, groups: groups(&group, name, gid) }),
    })
}

/// The id of a group's name, or else the number itself.
fn group_id(root: &Path, group: &str) -> Result<u32, Failure> {
    let path = root.join("etc/group");
    let groups = load(&path).unwrap_or_default();
    let named = groups.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        (fields.next()? == group.as_bytes()).then(|| number(fields.nth(1)?))?
    });
    let message = || format!("no group `{group}` in {}", path.display());
    named.or_else(|| number(group.as_bytes())).ok_or_else(|| refused(Errno::EINVAL, message()))
}

/// Name and home of a user id, as far as known.
fn describe(root: &Path, uid: u32) -> (OsString, PathBuf) {
    let passwd = load(&root.join("etc/passwd")).unwrap_or_default();
    let record = records(&passwd).find(|record| record.uid == uid);
    match record {
        Some(record) => (OsStr::from_bytes(record.name).to_owned(), path_of(record.home)),
        None => (uid.to_string().into(), PathBuf::from("/")),
    }
}

fn path_of(home: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(if home.is_empty() { b"/" } else { home }))
}

fn load(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // Non-blocking, since the path may be a FIFO.
    let read = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed("read", path)(errno(&error)))?;
    if bytes.len() as u64 > LIMIT {
        return Err(failed("read", path)(Errno::EFBIG));
    }
    Ok(bytes)
}

/// The number of an error of the standard library.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A line of `/etc/passwd`.
struct Record<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

fn records(passwd: &[u8]) -> impl Iterator<Item = Record<'_>> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let (_comment, home) = (fields.next()?, fields.next()?);
        Some(Record { name, uid, gid, home })
    })
}

/// The ids of all groups that `user` is in, besides `own`.
fn groups(group: &[u8], user: &[u8], own: u32) -> Vec<u32> {
    let ids = group.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (_name, _password) = (fields.next()?, fields.next()?);
        let (gid, members) = (number(fields.next()?)?, fields.next()?);
        let is_member = members.split(|byte| *byte == b',').any(|name| name == user);
        (is_member && gid != own).then_some(gid)
    });
    std::iter::once(own).chain(ids).collect()
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id != INVALID_ID)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1001:,,,:/home/user:/bin/bash\n";
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:\nuser:x:1001:\ndocker:x:5:root,user\nsudo:x:6:users\n";
        fs::write(root.path().join("etc/group"), group).unwrap();
        root
    }

    #[test]
    fn a_name_brings_its_home_and_all_its_groups() {
        let user = User::Name("user".into());
        let account = find(root().path(), Some(&user)).unwrap();
        let expected = Account {
            name: "user".into(),
            home: "/home/user".into(),
            credentials: Some(Credentials { uid: 1000, gid: 1001, groups: vec![1001, 5] }),
        };
        assert_eq!(account, expected);
    }

    fn in_group(user: &str, group: &str) -> Result<Account, Failure> {
        let user = User::InGroup { user: user.into(), group: group.into() };
        find(root().path(), Some(&user))
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let root = root();
        let failure = find(root.path(), Some(&User::Name("nobody".into()))).unwrap_err();
        assert!(failure.message.starts_with("no user `nobody` in "));
        let failure = in_group("user", "staff").unwrap_err();
        assert!(failure.message.starts_with("no group `staff` in "));
    }

    #[test]
    fn a_number_of_an_account_brings_its_name_home_and_groups() {
        let root = root();
        let account = find(root.path(), Some(&User::Name("1000".into()))).unwrap();
        assert_eq!(account, find(root.path(), Some(&User::Name("user".into()))).unwrap());
    }

    #[test]
    fn a_number_of_no_account_has_the_group_of_that_number() {
        let user = User::Name("77".into());
        let credentials = Some(Credentials { uid: 77, gid: 77, groups: vec![77] });
        let expected = Account { name: "77".into(), home: "/".into(), credentials };
        assert_eq!(find(root().path(), Some(&user)).unwrap(), expected);
        assert_eq!(find(Path::new("/nowhere"), Some(&user)).unwrap(), expected);
    }

    #[test]
    fn a_group_that_is_named_replaces_all_groups_of_the_user() {
        let ids = |user, group| in_group(user, group).unwrap().credentials.unwrap();
        let expected = Credentials { uid: 1000, gid: 5, groups: vec![5] };
        assert_eq!(ids("user", "docker"), expected);
        assert_eq!(ids("1000", "docker"), expected);
        assert_eq!(ids("user", "5"), expected);
        assert_eq!(ids("user", "4000").gid, 4000);
    }

    #[test]
    fn ids_need_no_record() {
        let account = find(root().path(), Some(&User::Ids { uid: 7, gid: 8 })).unwrap();
        assert_eq!(account.name, "7");
        assert_eq!(account.home, Path::new("/"));
        let groups = account.credentials.unwrap().groups;
        assert_eq!(groups, Vec::<u32>::new());
    }

    #[test]
    fn the_id_that_changes_nothing_is_refused() {
        let find = |uid, gid| find(root().path(), Some(&User::Ids { uid, gid }));
        assert!(find(u32::MAX, 1000).is_err());
        assert!(find(1000, u32::MAX).is_err());
        assert!(find(u32::MAX - 1, 1000).is_ok());
    }

    #[test]
    fn a_command_without_user_runs_as_root_even_without_passwd() {
        let account = find(Path::new("/nowhere"), None).unwrap();
        assert_eq!(account.home, Path::new("/"));
        assert_eq!(account.credentials, None);
    }
}
