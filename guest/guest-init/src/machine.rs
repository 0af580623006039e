//! What makes the root a machine: cgroups, memory, devices, the network, parameters, a name.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use process::Cgroup;

use crate::{Error, Result, memory, modprobe, mount, network, sysctl};

/// The name of a machine that nobody has named.
const NAME: &str = "sandbox";

/// Names that programs expect in `/dev`, and that the kernel does not make.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Prepares all of it.
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

/// Lets the service and the commands be told apart in what they use.
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

/// A folder for everybody; what is there stays as it is.
fn make_temporary_folder(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // Afterwards, since the kernel starts us with a umask that lets nobody else write.
        made => made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o1777))),
    }
    .map_err(|source| Error::MakeFolder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_may_write_to_the_temporary_folder_whatever_the_umask_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tmp");
        make_temporary_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1777);
    }
}
