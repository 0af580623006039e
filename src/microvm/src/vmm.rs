//! The interface of a kind of virtual machine monitor.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netns::Lease;
use process::{Cgroup, Child, Credentials};
use sandbox::SandboxConfig;

use crate::Result;
use crate::folder::Folder;

/// A kind of virtual machine monitor.
pub trait Vmm: Send + Sync + 'static {
    /// Its name: `qemu`, `firecracker`.
    fn kind(&self) -> &'static str;

    /// Starts the processes of one VM. Runs on the VM's own thread.
    fn launch(&self, launch: &Launch<'_>) -> Result<Launched>;

    /// How much memory its processes may need besides the guest's, in MiB.
    fn overhead_mib(&self) -> u32;

    /// What a snapshot depends on of the monitor; `None` if this kind has no snapshots.
    fn snapshot_identity(&self) -> Option<SnapshotIdentity> {
        None
    }
}

/// The file with a saved VM's state, in the monitor's folder.
pub const SNAPSHOT_STATE: &str = "snapshot.state";
/// The file with a saved VM's memory, in the monitor's folder.
pub const SNAPSHOT_MEMORY: &str = "snapshot.memory";

/// What a snapshot depends on of its monitor.
#[derive(Debug, Clone)]
pub struct SnapshotIdentity {
    /// The configuration of VMs.
    pub text: String,
    /// Files besides the image's: the program.
    pub files: Vec<PathBuf>,
}

/// The resources of a VM's processes, all in place when [`Vmm::launch`] is called.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The VM's folder, with the image's files and the disk.
    pub folder: &'a Folder,
    /// The VM's configuration.
    pub config: &'a SandboxConfig,
    /// Its network, whose tap the monitor opens; `None` means no network card.
    pub network: Option<&'a Lease>,
    /// The cgroup into which every process of the VM is cloned.
    pub cgroup: &'a Cgroup,
    /// The VM's own UID and GID, for all its processes.
    pub credentials: Credentials,
    /// Whether to restore the snapshot in the folder, rather than to boot.
    pub is_restored: bool,
    /// When to give up.
    pub deadline: Instant,
}

/// A connection to a running monitor, used by its VM's thread.
pub trait Remote: Send {
    /// Pauses the vCPUs.
    fn pause(&mut self, deadline: Instant) -> Result<()>;

    /// Resumes the vCPUs.
    fn resume(&mut self, deadline: Instant) -> Result<()>;

    /// Sets the balloon's target, in MiB; the guest inflates it in its own time.
    fn set_balloon(&mut self, mib: u32, deadline: Instant) -> Result<()>;

    /// The balloon's present size, in MiB.
    fn balloon(&mut self, deadline: Instant) -> Result<u32>;

    /// Pauses the VM for good, and writes [`SNAPSHOT_STATE`] and [`SNAPSHOT_MEMORY`] into the monitor's
    /// folder. The guest is quiesced. Only for a kind with a [`SnapshotIdentity`].
    fn save(&mut self, deadline: Instant) -> Result<()>;
}

/// The time until `deadline`, as a socket's time-out; an error if it has passed.
pub fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A socket time-out of zero means none.
    if left < Duration::from_micros(1) { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The kernel's command line, without the monitor's own parameters.
pub fn kernel_command_line() -> String {
    let debug = if log::log_enabled!(log::Level::Debug) { " sandbox.debug" } else { "" };
    format!("console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on{debug}")
}

/// The processes of a VM. The VM ends when one of them ends.
pub struct Launched {
    /// The monitor.
    pub monitor: Member,
    /// Helper processes.
    pub helpers: Vec<Member>,
    /// The connection to the monitor.
    pub remote: Box<dyn Remote>,
    /// What the guest writes to its console.
    pub console: OwnedFd,
    /// What the processes write to their standard errors.
    pub errors: OwnedFd,
}

/// A process of a VM.
#[derive(Debug)]
pub struct Member {
    /// The program.
    pub program: &'static str,
    /// The process.
    pub child: Child,
}
