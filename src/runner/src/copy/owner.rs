//! Looks users up by name, in a VM or on this host.

use std::path::Path;
use std::time::{Duration, Instant};

use sandbox::{Owner, Sandbox, TreeItem, User};

use crate::error::{Result, file};

/// How long a guest may take for one step.
const STEP: Duration = Duration::from_secs(30);
/// The largest part of an account file that is read, in bytes.
const LIMIT: usize = 4 << 20;

/// A user of a VM; none if the name is unknown.
pub(crate) fn in_vm(user: &User, sandbox: &dyn Sandbox) -> Result<Option<Owner>> {
    look_up(user, |path| read(sandbox, path))
}

/// A user of this host; none if the name is unknown.
pub(crate) fn on_host(user: &User) -> Result<Option<Owner>> {
    look_up(user, |path| std::fs::read(path).map_err(file("read", path)))
}

fn look_up(user: &User, read: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Option<Owner>> {
    match user {
        User::Ids { uid, gid } => Ok(Some(Owner { uid: *uid, gid: *gid })),
        User::Name(name) => Ok(find(name, &read("/etc/passwd")?)),
        User::InGroup { user, group } => {
            let owner = find(user, &read("/etc/passwd")?);
            let gid = find_group(group, &read("/etc/group")?);
            Ok(owner.zip(gid).map(|(Owner { uid, .. }, gid)| Owner { uid, gid }))
        }
    }
}

fn read(sandbox: &dyn Sandbox, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = sandbox.read(Path::new(path), Instant::now() + STEP)?;
    while let Some(item) = reader.next(Instant::now() + STEP)? {
        if let TreeItem::Data(data) = item {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > LIMIT {
            break;
        }
    }
    Ok(bytes)
}

/// Finds a user in lines of `name:password:uid:gid:…`, by name, else by number, as the guest does.
fn find(user: &str, passwd: &[u8]) -> Option<Owner> {
    let passwd = String::from_utf8_lossy(passwd);
    let accounts = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let number = |field: Option<&str>| field?.parse().ok();
            let name = fields.next()?;
            Some((name, Owner { uid: number(fields.nth(1))?, gid: number(fields.next())? }))
        })
    };
    let id: Option<u32> = user.parse().ok();
    let found = accounts().find(|(name, _)| *name == user);
    let found = found.or_else(|| accounts().find(|(_, owner)| Some(owner.uid) == id));
    found.map(|(_, owner)| owner).or(id.map(|id| Owner { uid: id, gid: id }))
}

/// Finds a group in lines of `name:password:gid:…`, by name, else by number.
fn find_group(group: &str, groups: &[u8]) -> Option<u32> {
    let groups = String::from_utf8_lossy(groups);
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    named.or_else(|| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_guests_accounts() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nuser:x:1000:50::/home/user:/bin/bash\n";
        assert_eq!(find("user", passwd), Some(Owner { uid: 1000, gid: 50 }));
        assert_eq!(find("use", passwd), None);
    }

    #[test]
    fn a_number_is_looked_up_and_needs_no_account() {
        let passwd = b"user:x:1000:50::/home/user:/bin/bash\n";
        assert_eq!(find("1000", passwd), Some(Owner { uid: 1000, gid: 50 }));
        assert_eq!(find("7", passwd), Some(Owner { uid: 7, gid: 7 }));
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        let groups = b"root:x:0:\nstaff:x:50:user\n";
        assert_eq!(find_group("staff", groups), Some(50));
        assert_eq!(find_group("60", groups), Some(60));
        assert_eq!(find_group("sta", groups), None);
    }

    #[test]
    fn a_user_of_this_host_is_found_by_name() {
        let root = on_host(&User::Name("root".into())).unwrap();
        assert_eq!(root, Some(Owner { uid: 0, gid: 0 }));
        assert_eq!(on_host(&User::Name("no such user".into())).unwrap(), None);
    }

    #[test]
    fn malformed_accounts_of_a_guest_are_ignored() {
        assert_eq!(find("user", b"user\nuser:x\nuser:x:-1:\xff\n"), None);
    }
}
