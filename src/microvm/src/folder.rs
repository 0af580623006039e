//! The folder of a VM: its files, and the lock that proves that its owner lives.
//!
//! ```text
//! <state>/vms/.lock            held while a folder is created, removed or reclaimed
//! <state>/vms/<id>/            root's
//!     lock                     held by the owner for as long as it lives
//!     vm.json                  the record
//!     control.sock             the control socket, 0600
//!     console.log vmm.log      output of the guest's console and of the VMM
//!     output.log runner.log    output of a detached command, and its runner's log
//!     command.jsonl alive      how that command began and ended; whether its runner lives
//!     commands/<name>/         the same four of each command of `exec -d`
//!     vmm/                     the VMM's working folder, owned by its user
//!         kernel initramfs rootfs   hard links into the image
//!         disk                 the writable disk
//!         v.sock v.sock_1000 …  sockets of the guest link
//! ```
//!
//! INVARIANT: the folder is created before all other resources of its VM, and removed last. So all that a
//! dead owner left can be found by the VM's id.
//! INVARIANT: a hostile VMM may have written to `vmm/`; its content is not trusted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use base::error::chain;
use nix::fcntl::{Flock, FlockArg};
use sandbox::Image;

use crate::error::file;
use crate::record::{self, VmRecord};
use crate::{Error, Result, layout};

/// The folder of a VM that this process owns. Dropping it removes it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// `vmm/`, opened: its sockets are addressed through the descriptor, as the path may be too long.
    vmm: File,
    record: VmRecord,
    _lock: Flock<File>,
}

impl Folder {
    /// Creates the folder of a new VM.
    pub(crate) fn create(state: &Path, record: VmRecord, uid: u32) -> Result<Self> {
        let vms = layout::vms(state);
        make_folder(&vms, 0o711)?;
        let _all = lock_all(&vms)?;
        if let Some(name) = &record.name {
            refuse_taken(&vms, name)?;
        }
        let path = vms.join(record.id.to_string());
        DirBuilder::new().mode(0o711).create(&path).map_err(file("create", &path))?;
        let record = VmRecord { folder: path.clone(), ..record };
        Self::fill(path.clone(), record, uid).inspect_err(|_| {
            if let Err(error) = remove(&path) {
                log::error!("cannot remove an incomplete folder; error={}", chain(&error));
            }
        })
    }

    /// Creates the lock, the VMM's folder and the record in a new folder.
    fn fill(path: PathBuf, record: VmRecord, uid: u32) -> Result<Self> {
        let lock = lock(&path.join("lock"))?;
        let inner = path.join("vmm");
        DirBuilder::new().mode(0o700).create(&inner).map_err(file("create", &inner))?;
        chown(&inner, Some(uid), Some(uid)).map_err(file("give away", &inner))?;
        let vmm_folder = File::open(&inner).map_err(file("open", &inner))?;
        record::write(&path, &record)?;
        Ok(Self { path, vmm: vmm_folder, record, _lock: lock })
    }

    /// Changes the record.
    pub(crate) fn record(&mut self, change: impl FnOnce(&mut VmRecord)) -> Result<()> {
        let mut record = self.record.clone();
        change(&mut record);
        // Under the common lock, so that a name is given once.
        let vms = self.path.parent().unwrap_or(&self.path);
        let _all = lock_all(vms)?;
        if let Some(name) = record.name.as_deref().filter(|_| record.name != self.record.name) {
            refuse_taken(vms, name)?;
        }
        record::write(&self.path, &record)?;
        self.record = record;
        Ok(())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The VMM's working folder, by a path that needs no permission on its parents.
    pub fn working_folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.vmm.as_raw_fd()))
    }

    /// A file in the VMM's working folder, by a path that is short enough for a socket's address.
    pub fn vmm_file(&self, name: &str) -> PathBuf {
        self.working_folder().join(name)
    }

    /// Hard-links the image's files into the VMM's folder, so that they stay if the image is replaced.
    pub(crate) fn link_image(&self, image: &Image) -> Result<()> {
        let inner = self.path.join("vmm");
        let files =
            [("kernel", &image.kernel), ("initramfs", &image.initramfs), ("rootfs", &image.rootfs)];
        for (name, source) in files {
            fs::hard_link(source, inner.join(name)).map_err(file("link", source))?;
        }
        Ok(())
    }

    /// Removes it with its content, under the common lock: reclaim must not see half a folder.
    fn remove(&self) -> Result<()> {
        let _all = self.path.parent().map(lock_all).transpose()?;
        remove(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::error!("cannot remove a vm's folder; error={}", chain(&error));
        }
    }
}

/// Locks the creation, removal and reclaiming of folders.
pub(crate) fn lock_all(vms: &Path) -> Result<Flock<File>> {
    lock(&vms.join(".lock"))
}

/// The same for the folders of all VMs that are beside this one.
pub fn lock_folders(vm: &VmRecord) -> Result<Flock<File>> {
    lock_all(vm.folder.parent().unwrap_or(&vm.folder))
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(path).map_err(file("open", path))?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| file("lock", path)(errno.into()))
}

/// Removes a folder, its record first: a concurrent list must not report the VM as dead.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    record::remove(folder)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", folder)),
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(file("create", path))
}

fn refuse_taken(vms: &Path, name: &str) -> Result<()> {
    let taken = record::list_in(vms)?
        .into_iter()
        .find(|record| record.alive && record.name.as_deref() == Some(name));
    match taken {
        Some(record) => Err(Error::NameTaken { name: name.to_owned(), id: record.id }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;
    use std::time::Instant;

    use sandbox::{DiskLimits, SandboxConfig};

    use sandbox::SandboxId;

    use super::*;
    use crate::layout::{ids, vms};
    use crate::{find, list, reclaim};

    fn config(name: Option<&str>) -> SandboxConfig {
        let image = Image {
            kernel: "/k".into(),
            initramfs: "/i".into(),
            rootfs: "/r".into(),
            disk_template: "/d".into(),
        };
        SandboxConfig {
            id: SandboxId::random().unwrap(),
            name: name.map(str::to_owned),
            labels: BTreeMap::new(),
            image,
            vcpus: 1,
            memory_mib: 256,
            disk_limits: DiskLimits::default(),
            network: None,
            hostname: "box".into(),
            timezone: None,
            host_authorities: Vec::new(),
        }
    }

    fn create(state: &Path, name: Option<&str>) -> Result<Folder> {
        let uid = state.metadata().unwrap().uid();
        let record = VmRecord::new(&config(name), "test", Vec::new());
        Folder::create(state, record, uid)
    }

    #[test]
    fn a_folder_is_listed_as_alive_while_its_owner_lives() {
        let state = tempfile::tempdir().unwrap();
        let folder = create(state.path(), Some("box")).unwrap();
        let records = list(state.path()).unwrap();
        assert_eq!(records.len(), 1);
        assert!(records[0].alive);
        assert_eq!(records[0].name.as_deref(), Some("box"));
        assert_eq!(records[0].folder, folder.path());
    }

    #[test]
    fn a_folder_is_removed_when_it_is_dropped() {
        let state = tempfile::tempdir().unwrap();
        drop(create(state.path(), None).unwrap());
        assert!(list(state.path()).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_filled_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        // The record's path is just short enough, that of its partial file is too long.
        let id_and_record = "/vms/0123456789abcdef/vm.json".len();
        let length = libc::PATH_MAX as usize - 1 - id_and_record;
        let mut state = temporary.path().to_owned();
        while state.as_os_str().len() + 101 < length {
            state.push("x".repeat(99));
        }
        state.push("x".repeat(length - state.as_os_str().len() - 1));
        fs::create_dir_all(&state).unwrap();

        let refused = create(&state, None);

        assert!(matches!(refused, Err(Error::File { operation: "create", .. })), "{refused:?}");
        assert!(ids(&vms(&state)).unwrap().is_empty());
    }

    #[test]
    fn a_name_is_taken_only_while_its_vm_lives() {
        let state = tempfile::tempdir().unwrap();
        let folder = create(state.path(), Some("box")).unwrap();
        let second = create(state.path(), Some("box"));
        assert!(matches!(second, Err(Error::NameTaken { name, .. }) if name == "box"));
        drop(folder);
        assert!(create(state.path(), Some("box")).is_ok());
    }

    #[test]
    fn a_vm_is_found_by_its_name_or_a_prefix_of_its_id() {
        let state = tempfile::tempdir().unwrap();
        let _folder = create(state.path(), Some("box")).unwrap();
        let id = list(state.path()).unwrap()[0].id;
        assert_eq!(find(state.path(), "box").unwrap().id, id);
        assert_eq!(find(state.path(), &id.short()).unwrap().id, id);
        assert!(matches!(find(state.path(), "other"), Err(Error::NotFound { .. })));
        assert!(matches!(find(state.path(), ""), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_dead_owners_folder_is_reclaimed_and_a_living_ones_is_not() {
        let state = tempfile::tempdir().unwrap();
        let living = create(state.path(), None).unwrap();
        // As left by an owner that was killed right after it created the folder.
        let dead = vms(state.path()).join("00000000000000aa");
        fs::create_dir(&dead).unwrap();
        let reclaimed = reclaim(state.path(), Instant::now()).unwrap();
        assert_eq!(reclaimed.len(), 1);
        assert!(!dead.exists());
        assert!(living.path().exists());
    }

    #[test]
    fn a_vm_that_cannot_be_reclaimed_does_not_stop_the_others() {
        let state = tempfile::tempdir().unwrap();
        let dead = |name: &str| vms(state.path()).join(name);
        fs::create_dir_all(dead("00000000000000aa")).unwrap();
        fs::write(dead("00000000000000bb"), "no folder").unwrap();
        fs::create_dir(dead("00000000000000cc")).unwrap();

        assert!(reclaim(state.path(), Instant::now()).is_err());

        assert_eq!(ids(&vms(state.path())).unwrap(), ["00000000000000bb".parse().unwrap()]);
    }

    #[test]
    fn a_socket_in_a_deep_folder_has_a_short_path() {
        let state = tempfile::tempdir().unwrap();
        let long = state.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let folder = create(&long, None).unwrap();
        let socket = folder.vmm_file("v.sock");
        std::os::unix::net::UnixListener::bind(socket).unwrap();
        assert!(folder.path().join("vmm/v.sock").exists());
    }
}
