//! The requests of Firecracker's API. Paths are relative to its working folder.

use serde::{Deserialize, Serialize};

/// A request whose reply has no content.
pub trait Request: Serialize {
    /// The HTTP method.
    const METHOD: &'static str = "PUT";
    /// The path of its URL.
    fn path(&self) -> String;
}

/// The size of the VM.
#[derive(Debug, Serialize)]
pub struct MachineConfig {
    /// Processors.
    pub vcpu_count: u32,
    /// Memory.
    pub mem_size_mib: u32,
}

/// What the VM boots.
#[derive(Debug, Serialize)]
pub struct BootSource<'a> {
    /// An uncompressed kernel.
    pub kernel_image_path: &'a str,
    /// The initramfs.
    pub initrd_path: &'a str,
    /// The kernel's command line.
    pub boot_args: &'a str,
}

/// A disk.
#[derive(Debug, Serialize)]
pub struct Drive<'a> {
    /// Its name in later requests.
    pub drive_id: &'a str,
    /// Its file.
    pub path_on_host: &'a str,
    /// Whether Firecracker is to add it to the kernel's command line.
    pub is_root_device: bool,
    /// Whether the guest may not write to it.
    pub is_read_only: bool,
    /// What a flush of the guest's does.
    pub cache_type: CacheType,
    /// How fast it is; as fast as the host's if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// How fast a device is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RateLimiter {
    /// In bytes; no limit if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// In operations; no limit if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// What may be used at once, and comes again.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TokenBucket {
    /// So much.
    pub size: u64,
    /// In so many milliseconds.
    pub refill_time: u64,
}

/// What a flush of the guest's does.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum CacheType {
    /// Nothing: what the guest wrote is lost in a crash of the host.
    Unsafe,
    /// It reaches the host's disk.
    Writeback,
}

/// A network card.
#[derive(Debug, Serialize)]
pub struct NetworkInterface<'a> {
    /// Its name in later requests.
    pub iface_id: &'a str,
    /// The tap that it is the other end of.
    pub host_dev_name: &'a str,
    /// Its hardware address.
    pub guest_mac: &'a str,
}

/// The vsock device.
#[derive(Debug, Serialize)]
pub struct Vsock<'a> {
    /// The guest's address.
    pub guest_cid: u32,
    /// Where the host dials. What the guest dials is delivered at `<uds_path>_<port>`.
    pub uds_path: &'a str,
}

/// A source of randomness.
#[derive(Debug, Serialize)]
pub struct Entropy {}

/// A balloon, by which memory is taken back from the guest.
#[derive(Debug, Serialize)]
pub struct Balloon {
    /// How much it takes now.
    pub amount_mib: u32,
    /// Whether a guest without memory may take it back.
    pub deflate_on_oom: bool,
    /// How often the guest is asked for statistics. Without any, its size is not told either.
    pub stats_polling_interval_s: u16,
}

/// Another size of the balloon.
#[derive(Debug, Serialize)]
pub struct BalloonSize {
    /// How much it is to take.
    pub amount_mib: u32,
}

/// What a balloon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BalloonStatistics {
    /// How much it has taken.
    pub actual_mib: u32,
}

/// Something to be done.
#[derive(Debug, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Boot.
    InstanceStart,
}

/// Whether the VM's processors run.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "state")]
pub enum VmState {
    /// They do not.
    Paused,
    /// They do.
    Resumed,
}

/// Save a paused VM.
#[derive(Debug, Serialize)]
pub struct SnapshotCreate<'a> {
    /// What is saved of its memory.
    pub snapshot_type: SnapshotType,
    /// Where its state goes.
    pub snapshot_path: &'a str,
    /// Where its memory goes.
    pub mem_file_path: &'a str,
}

/// What is saved of a VM's memory.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum SnapshotType {
    /// All of it.
    Full,
    /// What was ever used, if nothing was saved before: the rest is a hole of the file.
    Diff,
}

/// Become a saved VM.
#[derive(Debug, Serialize)]
pub struct SnapshotLoad<'a> {
    /// Its state.
    pub snapshot_path: &'a str,
    /// Its memory.
    pub mem_backend: MemoryBackend<'a>,
    /// Whether its processors run at once.
    pub resume_vm: bool,
}

/// Where the memory of a saved VM comes from.
#[derive(Debug, Serialize)]
pub struct MemoryBackend<'a> {
    /// The kind of it.
    pub backend_type: BackendType,
    /// Its place.
    pub backend_path: &'a str,
}

/// A kind of source of memory.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum BackendType {
    /// A file, mapped privately.
    File,
}

/// What Firecracker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// Its version, like `1.15.1`.
    pub vmm_version: String,
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
}

impl Request for MachineConfig {
    fn path(&self) -> String {
        "/machine-config".into()
    }
}

impl Request for BootSource<'_> {
    fn path(&self) -> String {
        "/boot-source".into()
    }
}

impl Request for Drive<'_> {
    fn path(&self) -> String {
        format!("/drives/{}", self.drive_id)
    }
}

impl Request for NetworkInterface<'_> {
    fn path(&self) -> String {
        format!("/network-interfaces/{}", self.iface_id)
    }
}

impl Request for Vsock<'_> {
    fn path(&self) -> String {
        "/vsock".into()
    }
}

impl Request for Entropy {
    fn path(&self) -> String {
        "/entropy".into()
    }
}

impl Request for Balloon {
    fn path(&self) -> String {
        "/balloon".into()
    }
}

impl Request for BalloonSize {
    const METHOD: &'static str = "PATCH";

    fn path(&self) -> String {
        "/balloon".into()
    }
}

impl Request for Action {
    fn path(&self) -> String {
        "/actions".into()
    }
}

impl Request for VmState {
    const METHOD: &'static str = "PATCH";

    fn path(&self) -> String {
        "/vm".into()
    }
}

impl Request for SnapshotCreate<'_> {
    fn path(&self) -> String {
        "/snapshot/create".into()
    }
}

impl Request for SnapshotLoad<'_> {
    fn path(&self) -> String {
        "/snapshot/load".into()
    }
}
