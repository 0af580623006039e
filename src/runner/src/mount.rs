//! Where in a VM a job's folders may be.

use std::path::{Component, Path};

use crate::value::Refused;

/// What the system lives in, or what is only seen as files.
const SYSTEM: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr",
];
/// Those of it that are nobody's, by tradition.
const FREE: [&str; 2] = ["/usr/src", "/usr/local/src"];
/// Folders that others live in.
const SHARED: [&str; 6] = ["/", "/home", "/tmp", "/usr/src", "/usr/local/src", "/var"];

/// Whether a folder may be there: the agent's user becomes its owner.
pub(crate) fn check(path: &str) -> Result<(), Refused> {
    let path = Path::new(path);
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) {
        return Err("expected an absolute path in the VM, without `..`");
    }
    if path.components().any(|part| part == Component::Normal(".vm0".as_ref())) {
        return Err("`.vm0` is the runner's own: no folder of a job can be there");
    }
    let is_below = |all: &[&str]| all.iter().any(|one| path.starts_with(one));
    let is_shared = SHARED.iter().any(|one| path == Path::new(one));
    if is_shared || (is_below(&SYSTEM) && !is_below(&FREE)) {
        return Err("the system's own folders cannot be a job's: take one like /srv/NAME");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_folder_is_not_one_of_the_systems() {
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
