//! Set-up of the machine: cgroups, memory, devices, network, kernel parameters, host name.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use process::Cgroup;

use crate::{Error, Result, memory, modprobe, mount, network, sysctl};

/// The default host name.
const NAME: &str = "sandbox";

/// Links that programs expect in `/dev` and that the kernel does not create.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Runs all of the set-up.
pub(crate) fn prepare() -> Result<()> {
    mount::program_file_systems()?;
    enable_controllers()?;
    memory::keep_working_set();
    for (path, target) in LINKS {
        match symlink(target, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Make { path: path.into(), source: error });
            }
            _ => {}
        }
    }
    make_temporary_folder(Path::new("/tmp"))?;
    network::set_up()?;
    sysctl::set_all();
    modprobe::offer();
    let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { NAME } else { name.trim() };
    nix::unistd::sethostname(name).map_err(|source| Error::HostName { source })
}

/// Enables cgroup controllers, so that the usage of service and commands is accounted separately.
fn enable_controllers() -> Result<()> {
    const ROOT: &str = "/sys/fs/cgroup";
    let path = Path::new(ROOT).join("cgroup.controllers");
    let names = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
    let root =
        Cgroup::open(Path::new(ROOT), ".").map_err(|source| Error::Controllers { source })?;
    let Some(root) = root else {
        return Ok(());
    };
    for name in names.split_ascii_whitespace() {
        root.write("cgroup.subtree_control", &format!("+{name}"))
            .map_err(|source| Error::Controllers { source })?;
    }
    Ok(())
}

/// Creates a world-writable folder; an existing one stays unchanged.
fn make_temporary_folder(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // Set the mode afterwards: the kernel starts init with a umask that denies write to others.
        made => made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o1777))),
    }
    .map_err(|source| Error::MakeFolder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temporary_folder_is_world_writable_with_any_umask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tmp");
        make_temporary_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1777);
    }
}
