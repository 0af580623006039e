//! The configuration of a sandbox, and the report of its start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Network, SandboxId};

/// The configuration of a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Its id on this host; must be unused.
    pub id: SandboxId,
    /// A name, unique among running sandboxes.
    pub name: Option<String>,
    /// Labels to list: the image's name, the command.
    pub labels: BTreeMap<String, String>,
    /// Its image.
    pub image: Image,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Its disk limits.
    pub disk_limits: DiskLimits,
    /// Its network; `None` means no network card.
    pub network: Option<Network>,
    /// Its host name.
    pub hostname: String,
    /// An IANA time zone; UTC if none.
    pub timezone: Option<String>,
    /// Certificates of authorities that it trusts besides its image's own, as PEM.
    pub host_authorities: Vec<String>,
}

/// A sandbox's disk limits per second, for reads and writes together; `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskLimits {
    /// Bytes.
    pub bytes_per_second: Option<u64>,
    /// Operations of any size.
    pub operations_per_second: Option<u64>,
}

/// The files of an image. They are only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// An uncompressed kernel (`vmlinux`).
    pub kernel: PathBuf,
    /// The initramfs that holds guest-init.
    pub initramfs: PathBuf,
    /// The root file system, a squashfs.
    pub rootfs: PathBuf,
    /// An empty ext4 file system, cloned for each sandbox's changes.
    pub disk_template: PathBuf,
}

/// How a sandbox started.
#[derive(Debug, Clone, Default)]
pub struct StartReport {
    /// The release of its kernel.
    pub kernel: String,
    /// The duration of each stage, in order.
    pub stages: Vec<(&'static str, Duration)>,
}
