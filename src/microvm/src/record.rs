//! The record of a VM, `vm.json` in its folder: what other processes know of it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base::error::chain;
use sandbox::{Publish, SandboxConfig, SandboxId};
use serde::{Deserialize, Serialize};

use crate::error::file;
use crate::owner::Owner;
use crate::{Error, Result, layout};

const FILE: &str = "vm.json";

/// A VM of some runner on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its id.
    #[serde(skip)]
    pub id: SandboxId,
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Labels for `runner ps`: the image, the command.
    pub labels: BTreeMap<String, String>,
    /// The kind of its virtual machine monitor.
    pub vmm: String,
    /// The process that owns it.
    pub owner: Owner,
    /// When it was made, in seconds since 1970.
    pub created_unix: u64,
    /// Whether it is assigned.
    #[serde(default)]
    pub phase: Phase,
    /// Its processors.
    pub vcpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its ports that are reached by ports of the host.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// Its folder.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Whether its owner lives. If not, it can be reclaimed.
    #[serde(skip)]
    pub alive: bool,
}

/// Whether a VM is assigned, to a job or to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It takes commands.
    #[default]
    Assigned,
    /// Started, and not assigned yet.
    Warm,
    /// Paused between two jobs of its session.
    Parked,
}

/// A port of a VM that is published on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host's address and port.
    pub host: SocketAddrV4,
    /// The VM's TCP port.
    pub port: u16,
}

impl From<Publish> for PublishedPort {
    fn from(publish: Publish) -> Self {
        Self { host: publish.host, port: publish.port }
    }
}

impl VmRecord {
    pub(crate) fn new(config: &SandboxConfig, vmm: &str, published: Vec<Publish>) -> Self {
        let mut record = Self::unassigned(config, vmm);
        record.assign(config, published);
        record
    }

    /// The record of a warm VM.
    pub(crate) fn unassigned(config: &SandboxConfig, vmm: &str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: config.id,
            name: None,
            labels: config.labels.clone(),
            vmm: vmm.to_owned(),
            owner: Owner::this(),
            created_unix: since.as_secs(),
            phase: Phase::Warm,
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            ports: Vec::new(),
            folder: PathBuf::new(),
            alive: true,
        }
    }

    pub(crate) fn assign(&mut self, config: &SandboxConfig, published: Vec<Publish>) {
        self.name.clone_from(&config.name);
        self.labels.clone_from(&config.labels);
        self.phase = Phase::Assigned;
        self.ports = published.into_iter().map(PublishedPort::from).collect();
    }

    pub(crate) fn park(&mut self) {
        (self.name, self.phase) = (None, Phase::Parked);
        self.ports.clear();
    }
}

/// Writes the record atomically, mode 0600. It is not synced: the VM does not survive a power cut either.
pub(crate) fn write(folder: &Path, record: &VmRecord) -> Result<()> {
    let (path, partial) = (folder.join(FILE), folder.join(".vm.json.partial"));
    let json = serde_json::to_vec_pretty(record)
        .map_err(|source| Error::Record { path: path.clone(), source })?;
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut partial_file = options.open(&partial).map_err(file("create", &partial))?;
    partial_file.write_all(&json).map_err(file("write", &partial))?;
    fs::rename(&partial, &path).map_err(file("rename", &partial))
}

/// Removes the record, and with it the VM from the list.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", path)),
    }
}

/// All VMs under a state folder, oldest first. Those of dead owners are included.
pub fn list(state: &Path) -> Result<Vec<VmRecord>> {
    list_in(&layout::vms(state))
}

/// All VMs whose folders are in `vms`.
pub(crate) fn list_in(vms: &Path) -> Result<Vec<VmRecord>> {
    let mut records = Vec::new();
    for id in layout::ids(vms)? {
        match read(&vms.join(id.to_string()), id) {
            Ok(record) => records.extend(record),
            // A record that a full disk or a crash truncated must not hide the others.
            Err(error @ Error::Record { .. }) => log::warn!("{}", chain(&error)),
            Err(error) => return Err(error),
        }
    }
    records.sort_by_key(|record| (record.created_unix, record.id));
    Ok(records)
}

/// Finds a VM by its name, its id, or a prefix of its id.
pub fn find(state: &Path, name: &str) -> Result<VmRecord> {
    let mut found: Vec<_> = list(state)?.into_iter().filter(|record| record.alive).collect();
    if let Some(at) = found.iter().position(|record| record.name.as_deref() == Some(name)) {
        return Ok(found.swap_remove(at));
    }
    found.retain(|record| !name.is_empty() && record.id.to_string().starts_with(name));
    match found.len() {
        0 => Err(Error::NotFound { name: name.to_owned() }),
        1 => Ok(found.swap_remove(0)),
        _ => {
            let ids: Vec<_> = found.iter().map(|record| record.id.to_string()).collect();
            Err(Error::Ambiguous { name: name.to_owned(), ids: ids.join(", ") })
        }
    }
}

/// Whether the VM in `folder` has a living owner. A VM without a record is being created or removed.
pub(crate) fn is_owned(folder: &Path, id: SandboxId) -> Result<bool> {
    match read(folder, id) {
        Ok(Some(record)) => Ok(record.alive),
        Ok(None) | Err(Error::Record { .. }) => layout::is_locked(folder),
        Err(error) => Err(error),
    }
}

/// The record in `folder`; `None` if the VM is being created or removed.
fn read(folder: &Path, id: SandboxId) -> Result<Option<VmRecord>> {
    let path = folder.join(FILE);
    let json = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(file("read", &path))?,
    };
    let record: VmRecord =
        serde_json::from_slice(&json).map_err(|source| Error::Record { path, source })?;
    let alive = layout::is_locked(folder)? && !record.owner.is_dead();
    Ok(Some(VmRecord { id, folder: folder.to_owned(), alive, ..record }))
}
