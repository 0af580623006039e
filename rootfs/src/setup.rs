//! The additions to every root file system: the account of jobs, the guest programs, the kernel's
//! modules, mount points, and a few files of `/etc`. They do not depend on the host.

use contract::guest::GATEWAY;

use crate::account;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::program::Programs;
use crate::tree::{Content, Meta, Node, Tree};

/// The version of the additions: it is increased when the same source must give another root file
/// system.
pub(crate) const VERSION: &str = "setup 2";

const HOSTS: &str = "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n";
const HOSTNAME: &str = "sandbox\n";

const SUDOERS: &str = "/etc/sudoers.d/sandbox-user";
/// `sudo` keeps the variables that name trusted certificates: a guest needs them on an intercepted
/// network, and with the host's authorities.
const SUDOERS_RULES: &str = "\
Defaults:user env_keep += \"SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO\"
Defaults:user env_keep += \"PIP_CERT NODE_EXTRA_CA_CERTS\"
user ALL=(ALL:ALL) NOPASSWD: ALL
";

/// guest-init is the kernel's modprobe helper, and is linked at this path.
const MODPROBE: &[u8] = b"/proc/1/exe";

const CONTAINERS: [&str; 3] = ["/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"];
/// The folders of rootless containers, below the home of `user`, after their parents.
const USER_CONTAINERS: [&str; 4] =
    [".local", ".local/share", ".local/share/containers", ".local/share/docker"];

const ETC_LIMIT: u64 = 4 << 20;

/// Applies all additions.
pub(crate) fn add_runner_files(
    tree: &mut Tree,
    programs: &Programs,
    kernel: &Kernel,
) -> Result<()> {
    for path in ["/proc", "/sys", "/dev", "/run", "/mnt", "/etc", "/usr/local/bin"] {
        ensure_directory(tree, path, &Meta::with_mode(0o755))?;
    }
    ensure_directory(tree, "/tmp", &Meta::with_mode(0o1777))?;
    add_account(tree)?;
    write(tree, "/etc/resolv.conf", format!("nameserver {GATEWAY}\n").as_bytes(), 0o644)?;
    write(tree, "/etc/hosts", HOSTS.as_bytes(), 0o644)?;
    write(tree, "/etc/hostname", HOSTNAME.as_bytes(), 0o644)?;
    // An empty file means "not set": each guest generates its own id.
    write(tree, "/etc/machine-id", b"", 0o444)?;
    for (name, bytes) in &programs.installed {
        write(tree, &format!("/usr/local/bin/{name}"), bytes, 0o755)?;
    }
    for (path, bytes) in &kernel.library {
        write(tree, &format!("/lib/modules/{}/{path}", kernel.release), bytes, 0o644)?;
    }
    if tree.get(b"/sbin/modprobe")?.is_none() && tree.get(b"/usr/sbin/modprobe")?.is_none() {
        tree.add(b"/usr/sbin/modprobe", Meta::with_mode(0o777), Content::Symlink(MODPROBE))?;
    }
    add_container_folders(tree)
}

/// Creates the storage folders of Docker, containerd, Podman and Buildah.
///
/// Contract with guest-init: it mounts a folder of the writable disk over each empty one, as an
/// overlay, such as the guest's root, cannot be the upper layer of another.
fn add_container_folders(tree: &mut Tree) -> Result<()> {
    for path in CONTAINERS {
        ensure_directory(tree, path, &Meta::with_mode(0o711))?;
    }
    let owned = Meta { uid: account::ID, gid: account::ID, ..Meta::with_mode(0o700) };
    for path in USER_CONTAINERS {
        ensure_directory(tree, &format!("{}/{path}", account::HOME), &owned)?;
    }
    Ok(())
}

fn add_account(tree: &mut Tree) -> Result<()> {
    let bash = tree.get(b"/bin/bash")?.is_some();
    let shell = if bash { "/bin/bash" } else { "/bin/sh" };
    edit(tree, "/etc/passwd", |text| account::passwd(text, shell))?;
    edit(tree, "/etc/group", account::group)?;
    // The subordinate ids of the user's containers.
    edit(tree, "/etc/subuid", account::subordinate)?;
    edit(tree, "/etc/subgid", account::subordinate)?;
    if tree.get(b"/etc/shadow")?.is_some() {
        edit(tree, "/etc/shadow", account::shadow)?;
    }
    let owned = Meta { uid: account::ID, gid: account::ID, ..Meta::with_mode(0o755) };
    tree.add(account::HOME.as_bytes(), owned.clone(), Content::Directory)?;
    tree.add(account::WORKSPACE.as_bytes(), owned, Content::Directory)
}

/// Lets the user `user` run any command as root without a password.
pub(crate) fn allow_sudo(tree: &mut Tree) -> Result<()> {
    ensure_directory(tree, "/etc/sudoers.d", &Meta::with_mode(0o750))?;
    write(tree, SUDOERS, SUDOERS_RULES.as_bytes(), 0o440)
}

/// Creates a folder, unless the path leads to one.
fn ensure_directory(tree: &mut Tree, path: &str, meta: &Meta) -> Result<()> {
    match tree.get(path.as_bytes())? {
        Some(inode) if matches!(inode.node, Node::Directory(_)) => Ok(()),
        _ => tree.add(path.as_bytes(), meta.clone(), Content::Directory),
    }
}

/// Edits a text file, and keeps its owner and mode.
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

    fn kernel() -> Kernel {
        let library = vec![("kernel/fs/fuse/fuse.ko".to_owned(), b"module".to_vec())];
        let (vmlinux, modules) = ("/vmlinux".into(), Vec::new());
        Kernel { vmlinux, release: "6.1".to_owned(), modules, library }
    }

    fn programs() -> Programs {
        Programs { init: Vec::new(), installed: vec![("guest-agent", b"elf".to_vec())] }
    }

    #[test]
    fn an_empty_tree_gets_all_files_of_a_guest() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());

        add_runner_files(&mut tree, &programs(), &kernel()).unwrap();

        let listing = listing(&tree);
        assert!(listing.contains(&"usr/local/bin/guest-agent=elf".to_owned()));
        assert!(listing.contains(&"etc/machine-id=".to_owned()));
        assert!(listing.contains(&"proc/".to_owned()));
        assert!(listing.contains(&"lib/modules/6.1/kernel/fs/fuse/fuse.ko=module".to_owned()));
        let workspace = tree.get(b"/home/user/workspace").unwrap().unwrap();
        assert_eq!((workspace.meta.uid, workspace.meta.gid), (1000, 1000));
        assert_eq!(tree.get(b"/tmp").unwrap().unwrap().meta.mode, 0o1777);
    }

    #[test]
    fn container_folders_are_created_and_existing_content_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let own = Meta { uid: 7, ..Meta::with_mode(0o700) };
        tree.add(b"var/lib/containers", own.clone(), Content::Directory).unwrap();

        add_runner_files(&mut tree, &programs(), &kernel()).unwrap();

        let meta = |path: &str| tree.get(path.as_bytes()).unwrap().unwrap().meta.clone();
        assert_eq!(meta("/var/lib/docker").mode, 0o711);
        assert_eq!(meta("/var/lib/containers"), own);
        assert_eq!(meta("/home/user/.local/share/containers").uid, 1000);
        let numbers = tree.read(b"/etc/subuid", 99).unwrap().unwrap();
        assert_eq!(numbers, b"user:100000:65536\n");
    }

    #[test]
    fn guest_init_is_modprobe_where_the_image_has_none() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut without, mut with) = (tree(one.path()), tree(other.path()));
        let own = Content::File(&mut &b"kmod"[..]);
        with.add(b"usr/sbin/modprobe", Meta::with_mode(0o755), own).unwrap();

        add_runner_files(&mut without, &programs(), &kernel()).unwrap();
        add_runner_files(&mut with, &programs(), &kernel()).unwrap();

        assert!(listing(&without).contains(&"usr/sbin/modprobe->/proc/1/exe".to_owned()));
        assert!(listing(&with).contains(&"usr/sbin/modprobe=kmod".to_owned()));
    }

    #[test]
    fn sudo_needs_no_password_and_keeps_the_certificate_variables() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());

        allow_sudo(&mut tree).unwrap();

        let rules = tree.read(SUDOERS.as_bytes(), ETC_LIMIT).unwrap().unwrap();
        let rules = String::from_utf8(rules).unwrap();
        assert!(rules.contains("\nuser ALL=(ALL:ALL) NOPASSWD: ALL\n"));
        assert!(rules.contains("PIP_CERT"));
        // sudo ignores a file that other users can write.
        assert_eq!(tree.get(SUDOERS.as_bytes()).unwrap().unwrap().meta.mode, 0o440);
    }

    #[test]
    fn link_in_etc_is_replaced_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"etc/resolv.conf", Meta::default(), Content::Symlink(b"../victim")).unwrap();
        tree.add(b"victim", Meta::default(), Content::File(&mut &b"kept"[..])).unwrap();

        add_runner_files(&mut tree, &programs(), &kernel()).unwrap();

        assert_eq!(tree.read(b"victim", 10).unwrap().unwrap(), b"kept");
        assert_eq!(
            tree.read(b"etc/resolv.conf", 99).unwrap().unwrap(),
            b"nameserver 192.168.241.1\n"
        );
    }

    #[test]
    fn shadow_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let meta = Meta { gid: 42, ..Meta::with_mode(0o640) };
        tree.add(b"etc/shadow", meta, Content::File(&mut &b"root:*:::::::\n"[..])).unwrap();

        add_runner_files(&mut tree, &programs(), &kernel()).unwrap();

        let shadow = tree.get(b"etc/shadow").unwrap().unwrap();
        assert_eq!((shadow.meta.mode, shadow.meta.gid), (0o640, 42));
    }

    #[test]
    fn temporary_folder_that_is_a_link_to_a_folder_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"var/tmp", Meta::with_mode(0o1777), Content::Directory).unwrap();
        tree.add(b"tmp", Meta::default(), Content::Symlink(b"var/tmp")).unwrap();

        add_runner_files(&mut tree, &programs(), &kernel()).unwrap();

        assert!(listing(&tree).contains(&"tmp->var/tmp".to_owned()));
    }

    #[test]
    fn bash_is_the_users_shell_if_installed() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"usr/bin/bash", Meta::default(), Content::File(&mut &b"elf"[..])).unwrap();
        tree.add(b"bin", Meta::default(), Content::Symlink(b"usr/bin")).unwrap();

        add_runner_files(&mut tree, &programs(), &kernel()).unwrap();

        let passwd = String::from_utf8(tree.read(b"etc/passwd", 999).unwrap().unwrap()).unwrap();
        assert!(passwd.ends_with("user:x:1000:1000::/home/user:/bin/bash\n"));
    }
}
