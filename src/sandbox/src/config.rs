//! What a sandbox is to be, and how its start went.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Network, SandboxId};

/// What a sandbox is to be.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Its name on this host; must be fresh.
    pub id: SandboxId,
    /// A name for people, unique among those that run.
    pub name: Option<String>,
    /// Facts to show in a list: the image's name, the command.
    pub labels: BTreeMap<String, String>,
    /// What is in it.
    pub image: Image,
    /// Processors.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// How fast its disks are.
    pub disk_limits: DiskLimits,
    /// Its network; it has none at all if none.
    pub network: Option<Network>,
    /// Its host name.
    pub hostname: String,
    /// An IANA time zone; UTC if none.
    pub timezone: Option<String>,
    /// Certificates of authorities that it trusts besides its image's own, as PEM.
    pub host_authorities: Vec<String>,
}

/// How much a sandbox may ask of its host's disk in a second, reads and writes together; as much as
/// there is where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskLimits {
    /// Bytes.
    pub bytes_per_second: Option<u64>,
    /// Operations, large and small ones.
    pub operations_per_second: Option<u64>,
}

/// The files that a sandbox starts from. They are only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// An uncompressed kernel (`vmlinux`).
    pub kernel: PathBuf,
    /// The initramfs that holds guest-init.
    pub initramfs: PathBuf,
    /// The root file system, a squashfs.
    pub rootfs: PathBuf,
    /// An empty ext4 file system, copied for each sandbox to hold its changes.
    pub disk_template: PathBuf,
}

/// How a sandbox started.
#[derive(Debug, Clone, Default)]
pub struct StartReport {
    /// The release of the kernel that runs in it.
    pub kernel: String,
    /// Each stage of the start and how long it took, in order.
    pub stages: Vec<(&'static str, Duration)>,
}
