//! The folder of a VM: all that it has on disk, and the proof that its owner lives.
//!
//! ```text
//! <state>/vms/.lock            held while folders come, and while the dead are looked for
//! <state>/vms/<id>/            root's
//!     lock                     held by the owner for as long as it lives
//!     vm.json                  the record
//!     control.sock             the control socket, 0600
//!     console.log vmm.log      what the guest's console and the VMM said
//!     output.log runner.log    what a detached command wrote, and its runner's log (the runner's)
//!     vmm/                     the VMM's user's, its working folder
//!         kernel initramfs rootfs   hard links into the image
//!         disk                 the writable disk
//!         v.sock v.sock_1000 …  sockets of the guest link
//! ```
//!
//! INVARIANT: the folder exists before anything else of its VM does, and goes last. So whatever a
//! dead owner left can be found from here, by the VM's id.
//! INVARIANT: what is in `vmm/` was perhaps written by a hostile VMM; nobody trusts it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sandbox::{Image, SandboxId};

use crate::error::{chain, file};
use crate::record::{self, VmRecord};
use crate::snapshot::Snapshot;
use crate::{Error, Result};

/// The folder of a VM that this process owns. Dropping it removes it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// `vmm/`, opened: sockets in it are named through it, however long the state folder's path.
    vmm: File,
    record: VmRecord,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes the folder of a new VM.
    pub(crate) fn create(state: &Path, record: VmRecord, uid: u32) -> Result<Self> {
        let vms = vms(state);
        make_folder(&vms, 0o711)?;
        let _all = lock_all(&vms)?;
        if let Some(name) = &record.name {
            refuse_taken(&vms, name)?;
        }
        let path = vms.join(record.id.to_string());
        DirBuilder::new().mode(0o711).create(&path).map_err(file("create", &path))?;
        let record = VmRecord { folder: path.clone(), ..record };
        Self::furnish(path.clone(), record, uid).inspect_err(|_| {
            if let Err(error) = remove(&path) {
                log::error!("half a folder stays; error={}", chain(&error));
            }
        })
    }

    /// Puts into a new folder what belongs there from the beginning.
    fn furnish(path: PathBuf, record: VmRecord, uid: u32) -> Result<Self> {
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
        // Under the common lock, so that of two who want a name, one gets it.
        let vms = self.path.parent().unwrap_or(&self.path);
        let _all = lock_all(vms)?;
        if let Some(name) = record.name.as_deref().filter(|_| record.name != self.record.name) {
            refuse_taken(vms, name)?;
        }
        record::write(&self.path, &record)?;
        self.record = record;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The VMM's working folder, by a path that needs no permission on the folders above it.
    pub fn working_folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.vmm.as_raw_fd()))
    }

    /// A file of the VMM, likewise: short enough for a socket's address.
    pub fn vmm_file(&self, name: &str) -> PathBuf {
        self.working_folder().join(name)
    }

    /// Links the image's files into the VMM's folder, so that it reaches them there, and they
    /// stay even if the image is replaced.
    pub(crate) fn link_image(&self, image: &Image) -> Result<()> {
        let inner = self.path.join("vmm");
        let files =
            [("kernel", &image.kernel), ("initramfs", &image.initramfs), ("rootfs", &image.rootfs)];
        for (name, source) in files {
            fs::hard_link(source, inner.join(name)).map_err(file("link", source))?;
        }
        Ok(())
    }

    /// Links the files of a snapshot likewise, so that it stays even if that is replaced.
    pub(crate) fn link_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        let inner = self.path.join("vmm");
        for (source, name) in snapshot.files() {
            fs::hard_link(&source, inner.join(name)).map_err(file("link", &source))?;
        }
        Ok(())
    }

    /// Removes it with all that is in it. Under the common lock: whoever looks for the dead must
    /// not come upon half a folder.
    fn remove(&self) -> Result<()> {
        let _all = self.path.parent().map(lock_all).transpose()?;
        remove(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::error!("folder stays; error={}", chain(&error));
        }
    }
}

/// Where the VMs of a state folder are.
pub(crate) fn vms(state: &Path) -> PathBuf {
    state.join("vms")
}

/// Keeps others from making, removing or reclaiming folders.
pub(crate) fn lock_all(vms: &Path) -> Result<Flock<File>> {
    lock(&vms.join(".lock"))
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(path).map_err(file("open", path))?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| file("lock", path)(errno.into()))
}

/// Whether somebody holds the lock of a VM's folder.
pub(crate) fn is_locked(folder: &Path) -> Result<bool> {
    let path = folder.join("lock");
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(file("open", &path))?,
    };
    match Flock::lock(lock, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(file("lock", path)(errno.into())),
    }
}

/// The record first: whoever lists VMs meanwhile must not take this one for dead.
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

/// The ids of all folders, of the living and the dead.
pub(crate) fn ids(vms: &Path) -> Result<Vec<SandboxId>> {
    let entries = match fs::read_dir(vms) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file("list", vms))?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt;
    use std::time::Instant;

    use sandbox::{DiskLimits, SandboxConfig};

    use super::*;
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
    fn a_dropped_folder_is_gone() {
        let state = tempfile::tempdir().unwrap();
        drop(create(state.path(), None).unwrap());
        assert!(list(state.path()).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_made_whole_is_not_left_half() {
        let temporary = tempfile::tempdir().unwrap();
        // So long that a record's path is allowed, and that of an unfinished one is not.
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
    fn a_vm_is_found_by_its_name_or_the_beginning_of_its_id() {
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
        // As an owner leaves it that was killed right after it made the folder.
        let dead = vms(state.path()).join("00000000000000aa");
        fs::create_dir(&dead).unwrap();
        let reclaimed = reclaim(state.path(), Instant::now()).unwrap();
        assert_eq!(reclaimed.len(), 1);
        assert!(!dead.exists());
        assert!(living.path().exists());
    }

    #[test]
    fn one_that_cannot_be_reclaimed_does_not_keep_the_others() {
        let state = tempfile::tempdir().unwrap();
        let dead = |name: &str| vms(state.path()).join(name);
        fs::create_dir_all(dead("00000000000000aa")).unwrap();
        fs::write(dead("00000000000000bb"), "no folder").unwrap();
        fs::create_dir(dead("00000000000000cc")).unwrap();

        assert!(reclaim(state.path(), Instant::now()).is_err());

        assert_eq!(ids(&vms(state.path())).unwrap(), ["00000000000000bb".parse().unwrap()]);
    }

    #[test]
    fn files_are_reached_by_a_short_path() {
        let state = tempfile::tempdir().unwrap();
        let long = state.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let folder = create(&long, None).unwrap();
        let socket = folder.vmm_file("v.sock");
        std::os::unix::net::UnixListener::bind(socket).unwrap();
        assert!(folder.path().join("vmm/v.sock").exists());
    }
}
