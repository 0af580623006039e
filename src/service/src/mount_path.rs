//! Validates the mount paths of a job's folders.

use std::path::{Component, Path};

/// Folders of the operating system and pseudo file systems.
const SYSTEM: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr",
];
/// Folders below [`SYSTEM`] that the operating system leaves to its users.
const FREE: [&str; 2] = ["/usr/src", "/usr/local/src"];
/// Folders that hold folders of several users or programs.
const SHARED: [&str; 6] = ["/", "/home", "/tmp", "/usr/src", "/usr/local/src", "/var"];

/// Checks that a folder may be mounted at `path`, which the agent's user will own.
pub fn check(path: &str) -> Result<(), &'static str> {
    let path = Path::new(path);
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) {
        return Err("expected an absolute path in the VM, without `..`");
    }
    if path.components().any(|part| part == Component::Normal(".vm0".as_ref())) {
        return Err("`.vm0` is reserved for the runner");
    }
    let is_below = |all: &[&str]| all.iter().any(|one| path.starts_with(one));
    let is_shared = SHARED.iter().any(|one| path == Path::new(one));
    if is_shared || (is_below(&SYSTEM) && !is_below(&FREE)) {
        return Err("this is a system folder: use one like /srv/NAME");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_path_may_not_be_a_system_or_shared_folder() {
        for path in ["/srv", "/srv/repo", "/home/user", "/home/user/workspace/app", "/workspace"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for path in ["/usr/src/app", "/var/lib/app", "/opt/etc", "/tmp/x", "/etcetera", "//srv//x/"]
        {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for path in
            ["/", "//", "/etc", "/etc/", "/proc/self", "/usr", "/usr/bin", "/usr/src/", "/dev/x"]
        {
            assert!(check(path).is_err_and(|text| text.contains("/srv/NAME")), "{path}");
        }
        for path in ["srv", "", "/srv/../etc", "/home/user/.vm0/inbox"] {
            assert!(check(path).is_err(), "{path}");
        }
    }
}
