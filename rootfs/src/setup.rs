//! What every root file system gets, whatever it was made from: the account of
//! jobs, our programs, mount points, and the few files of `/etc` that a machine
//! must have. Nothing here depends on the host.

use crate::account;
use crate::error::Result;
use crate::program::Programs;
use crate::tree::{Content, Meta, Node, Tree};

/// Counts up when the same source must give another root file system.
pub(crate) const RECIPE: &str = "setup 1";

/// The gateway of every guest is its name server.
const RESOLV_CONF: &str = "nameserver 192.168.241.1\n";
const HOSTS: &str = "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n";
const HOSTNAME: &str = "sandbox\n";

const ETC_LIMIT: u64 = 4 << 20;

/// Changes the tree as described at the head of this file.
pub(crate) fn furnish(tree: &mut Tree, programs: &Programs) -> Result<()> {
    for path in ["/proc", "/sys", "/dev", "/run", "/mnt", "/etc", "/usr/local/bin"] {
        ensure_directory(tree, path, &Meta::with_mode(0o755))?;
    }
    ensure_directory(tree, "/tmp", &Meta::with_mode(0o1777))?;
    add_account(tree)?;
    write(tree, "/etc/resolv.conf", RESOLV_CONF.as_bytes(), 0o644)?;
    write(tree, "/etc/hosts", HOSTS.as_bytes(), 0o644)?;
    write(tree, "/etc/hostname", HOSTNAME.as_bytes(), 0o644)?;
    // Empty means: not yet set, so no two machines share one.
    write(tree, "/etc/machine-id", b"", 0o444)?;
    for (name, bytes) in &programs.installed {
        write(tree, &format!("/usr/local/bin/{name}"), bytes, 0o755)?;
    }
    Ok(())
}

fn add_account(tree: &mut Tree) -> Result<()> {
    let bash = tree.get(b"/bin/bash")?.is_some();
    let shell = if bash { "/bin/bash" } else { "/bin/sh" };
    edit(tree, "/etc/passwd", |text| account::passwd(text, shell))?;
    edit(tree, "/etc/group", account::group)?;
    if tree.get(b"/etc/shadow")?.is_some() {
        edit(tree, "/etc/shadow", account::shadow)?;
    }
    let owned = Meta { uid: account::ID, gid: account::ID, ..Meta::with_mode(0o755) };
    tree.add(account::HOME.as_bytes(), owned.clone(), Content::Directory)?;
    let workspace = format!("{}/workspace", account::HOME);
    tree.add(workspace.as_bytes(), owned, Content::Directory)
}

/// Makes a folder unless the path leads to one already.
fn ensure_directory(tree: &mut Tree, path: &str, meta: &Meta) -> Result<()> {
    match tree.get(path.as_bytes())? {
        Some(inode) if matches!(inode.node, Node::Directory(_)) => Ok(()),
        _ => tree.add(path.as_bytes(), meta.clone(), Content::Directory),
    }
}

/// Changes a text file and keeps its owner and mode.
fn edit(tree: &mut Tree, path: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    let old = tree.read(path.as_bytes(), ETC_LIMIT)?.unwrap_or_default();
    let new = change(&String::from_utf8_lossy(&old));
    let meta = match tree.get(path.as_bytes())? {
        Some(inode) => Meta { mtime: 0, ..inode.meta.clone() },
        None => Meta::with_mode(0o644),
    };
    tree.add(path.as_bytes(), meta, Content::File(&mut new.as_bytes()))
}

fn write(tree: &mut Tree, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    tree.add(path.as_bytes(), Meta::with_mode(mode), Content::File(&mut &bytes[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listing, tree};

    fn programs() -> Programs {
        Programs { init: Vec::new(), installed: vec![("guest-agent", b"elf".to_vec())] }
    }

    #[test]
    fn empty_tree_becomes_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());

        furnish(&mut tree, &programs()).unwrap();

        let listing = listing(&tree);
        assert!(listing.contains(&"usr/local/bin/guest-agent=elf".to_owned()));
        assert!(listing.contains(&"etc/machine-id=".to_owned()));
        assert!(listing.contains(&"proc/".to_owned()));
        let workspace = tree.get(b"/home/user/workspace").unwrap().unwrap();
        assert_eq!((workspace.meta.uid, workspace.meta.gid), (1000, 1000));
        assert_eq!(tree.get(b"/tmp").unwrap().unwrap().meta.mode, 0o1777);
    }

    #[test]
    fn link_in_etc_is_replaced_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"etc/resolv.conf", Meta::default(), Content::Symlink(b"../victim")).unwrap();
        tree.add(b"victim", Meta::default(), Content::File(&mut &b"kept"[..])).unwrap();

        furnish(&mut tree, &programs()).unwrap();

        assert_eq!(tree.read(b"victim", 10).unwrap().unwrap(), b"kept");
        assert_eq!(tree.read(b"etc/resolv.conf", 99).unwrap().unwrap(), RESOLV_CONF.as_bytes());
    }

    #[test]
    fn shadow_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let meta = Meta { gid: 42, ..Meta::with_mode(0o640) };
        tree.add(b"etc/shadow", meta, Content::File(&mut &b"root:*:::::::\n"[..])).unwrap();

        furnish(&mut tree, &programs()).unwrap();

        let shadow = tree.get(b"etc/shadow").unwrap().unwrap();
        assert_eq!((shadow.meta.mode, shadow.meta.gid), (0o640, 42));
    }

    #[test]
    fn temporary_folder_that_is_a_link_to_a_folder_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"var/tmp", Meta::with_mode(0o1777), Content::Directory).unwrap();
        tree.add(b"tmp", Meta::default(), Content::Symlink(b"var/tmp")).unwrap();

        furnish(&mut tree, &programs()).unwrap();

        assert!(listing(&tree).contains(&"tmp->var/tmp".to_owned()));
    }

    #[test]
    fn bash_is_the_shell_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"usr/bin/bash", Meta::default(), Content::File(&mut &b"elf"[..])).unwrap();
        tree.add(b"bin", Meta::default(), Content::Symlink(b"usr/bin")).unwrap();

        furnish(&mut tree, &programs()).unwrap();

        let passwd = String::from_utf8(tree.read(b"etc/passwd", 999).unwrap().unwrap()).unwrap();
        assert!(passwd.ends_with("user:x:1000:1000::/home/user:/bin/bash\n"));
    }
}
