//! Firecracker's own `jailer`, as an alternative to our confinement.
//!
//! It is spawned into the VM's cgroup and network namespace, as root and with the host's files. It creates
//! the root folder, drops to the VM's user, and executes Firecracker in the same process. In the VM's folder:
//!
//! ```text
//!     jail/<program>/<id>/root   symbolic link to vmm/: the jailer's root
//!     vmm/<program>              its copy of the program
//!     vmm/<program>.pid dev/ run/    its other files, removed with the folder
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use microvm::Launch;

use crate::monitor::FILES;
use crate::program::Program;
use crate::{Error, Result};

/// The program's name.
pub(crate) const JAILER: &str = "jailer";

/// The path of the jailer, which is opened for each VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jailer {
    program: Program,
}

impl Jailer {
    /// The jailer at `path`. It must be of the same release as `firecracker`.
    pub fn find(path: &Path, firecracker: &Program) -> Result<Self> {
        let missing = || Error::NoJailer { path: path.to_owned() };
        let program = Program::find(Some(path)).ok_or_else(missing)?;
        let (jailer, firecracker) = (program.version()?, firecracker.version()?);
        if jailer != firecracker {
            let (jailer, firecracker) = (jailer.to_string(), firecracker.to_string());
            return Err(Error::JailerVersion { jailer, firecracker });
        }
        Ok(Self { program })
    }

    /// The jailer's program, and its own arguments; Firecracker's arguments follow.
    pub(crate) fn prepare(
        &self,
        firecracker: &Program,
        launch: &Launch<'_>,
    ) -> Result<(File, Vec<OsString>)> {
        let opened = firecracker.open()?;
        if !opened.is_static {
            return Err(Error::Dynamic { path: firecracker.path().to_owned() });
        }
        let id = launch.config.id.to_string();
        let (program, base) = link_root(launch.folder.path(), firecracker.path(), &id)?;
        let (uid, gid) = (launch.credentials.uid, launch.credentials.gid);
        Ok((self.program.open()?.file, arguments(&program, &base, &id, (uid, gid))))
    }
}

/// Links the jailer's root folder to `vmm/`; returns the program's real path and the jailer's base folder.
fn link_root(folder: &Path, program: &Path, id: &str) -> Result<(PathBuf, PathBuf)> {
    let failed = |source| Error::Program { path: program.to_owned(), source };
    // The jailer uses the name of the link's target.
    let program = fs::canonicalize(program).map_err(failed)?;
    let base = folder.join("jail");
    let above = base.join(program.file_name().unwrap_or(OsStr::new("firecracker"))).join(id);
    let link = above.join("root");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&above)
        .and_then(|()| symlink("../../../vmm", &link))
        .map_err(|source| Error::Root { path: link, source })?;
    Ok((program, base))
}

fn arguments(program: &Path, base: &Path, id: &str, (uid, gid): (u32, u32)) -> Vec<OsString> {
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let limit = format!("no-file={FILES}");
    let pairs: [(&str, &OsStr); 6] = [
        ("--id", id.as_ref()),
        ("--exec-file", program.as_ref()),
        ("--uid", uid.as_ref()),
        ("--gid", gid.as_ref()),
        ("--chroot-base-dir", base.as_ref()),
        ("--resource-limit", limit.as_ref()),
    ];
    let arguments = pairs.iter().flat_map(|(name, value)| [OsStr::new(name), value]);
    arguments.chain([OsStr::new("--")]).map(OsStr::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jailers_arguments_have_the_vms_id_user_and_folder() {
        let passed = arguments(
            Path::new("/opt/firecracker-v1.15.1"),
            Path::new("/state/vms/00000000000000aa/jail"),
            "00000000000000aa",
            (2013265921, 2013265922),
        );

        let passed: Vec<_> = passed.iter().map(|argument| argument.to_str().unwrap()).collect();
        assert_eq!(
            passed.join(" "),
            "--id 00000000000000aa --exec-file /opt/firecracker-v1.15.1 --uid 2013265921 \
             --gid 2013265922 --chroot-base-dir /state/vms/00000000000000aa/jail \
             --resource-limit no-file=2048 --"
        );
    }

    #[test]
    fn the_jailers_root_is_the_vms_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("vmm")).unwrap();
        fs::write(path.join("firecracker-v1"), "").unwrap();
        symlink(path.join("firecracker-v1"), path.join("firecracker")).unwrap();

        let (program, base) = link_root(path, &path.join("firecracker"), "00aa").unwrap();

        let name = program.file_name().unwrap();
        assert_eq!(name, "firecracker-v1");
        let root = base.join(name).join("00aa/root");
        assert_eq!(fs::canonicalize(root).unwrap(), fs::canonicalize(path.join("vmm")).unwrap());
    }

    #[test]
    fn a_missing_jailer_is_named_in_the_error() {
        let firecracker = Program::find(Some(Path::new("/proc/self/exe"))).unwrap();
        let error = Jailer::find(Path::new("/no/such/jailer"), &firecracker).unwrap_err();
        assert_eq!(error.to_string(), "there is no jailer at /no/such/jailer");
    }
}
