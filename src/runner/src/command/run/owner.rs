//! Whose files become that are copied in: the command's user's, so that it can change them.

use std::path::Path;
use std::time::{Duration, Instant};

use sandbox::{Owner, Sandbox, TreeItem, User};

use crate::error::Result;

const STEP: Duration = Duration::from_secs(30);
/// More accounts than this are not looked through.
const LIMIT: usize = 4 << 20;

/// Nobody in particular, which is root, for a name that the guest does not know: the command that
/// is to run as that user will say so.
pub(super) fn of(user: Option<&User>, sandbox: &dyn Sandbox) -> Result<Option<Owner>> {
    match user {
        None => Ok(None),
        Some(User::Ids { uid, gid }) => Ok(Some(Owner { uid: *uid, gid: *gid })),
        Some(User::Name(name)) => Ok(find(name, &accounts(sandbox)?)),
    }
}

fn accounts(sandbox: &dyn Sandbox) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = sandbox.read(Path::new("/etc/passwd"), Instant::now() + STEP)?;
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

/// In `name:password:uid:gid:…` lines.
fn find(name: &str, passwd: &[u8]) -> Option<Owner> {
    String::from_utf8_lossy(passwd).lines().find_map(|line| {
        let mut fields = line.split(':');
        let number = |field: Option<&str>| field?.parse().ok();
        (fields.next() == Some(name)).then_some(())?;
        Some(Owner { uid: number(fields.nth(1))?, gid: number(fields.next())? })
    })
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
    fn a_guests_nonsense_makes_nobody_an_owner() {
        assert_eq!(find("user", b"user\nuser:x\nuser:x:-1:\xff\n"), None);
    }
}
