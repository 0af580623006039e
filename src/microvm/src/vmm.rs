//! What a kind of virtual machine monitor does itself; all else is common.

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
    /// What it is called: `qemu`, `firecracker`.
    fn kind(&self) -> &'static str;

    /// Starts the processes of one VM. Runs on the VM's own thread.
    fn launch(&self, launch: &Launch<'_>) -> Result<Launched>;

    /// How much memory its processes may need besides the guest's, in MiB.
    fn overhead_mib(&self) -> u32;

    /// What a saved VM depends on of its monitor; none if that cannot save any.
    fn snapshot_identity(&self) -> Option<SnapshotIdentity> {
        None
    }
}

/// A file of a saved VM in its monitor's folder.
pub const SNAPSHOT_STATE: &str = "snapshot.state";
/// See [`SNAPSHOT_STATE`].
pub const SNAPSHOT_MEMORY: &str = "snapshot.memory";

/// What a saved VM depends on of its monitor.
#[derive(Debug, Clone)]
pub struct SnapshotIdentity {
    /// How VMs are made.
    pub text: String,
    /// Files that it depends on, besides the image's: the program.
    pub files: Vec<PathBuf>,
}

/// All that a VM's processes need; they are in place when [`Vmm::launch`] is called.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The VM's folder, with the image's files and the disk.
    pub folder: &'a Folder,
    /// What the VM is to be.
    pub config: &'a SandboxConfig,
    /// Its network, whose tap the monitor is to open; a VM without one gets no network card.
    pub network: Option<&'a Lease>,
    /// The cgroup that every process of the VM is born into.
    pub cgroup: &'a Cgroup,
    /// The user that every process of the VM runs as: one that nobody else is.
    pub credentials: Credentials,
    /// Whether it is to go on from the snapshot in its folder, rather than to boot.
    pub is_restored: bool,
    /// When to give up.
    pub deadline: Instant,
}

/// A monitor that runs, as its VM's thread speaks to it.
pub trait Remote: Send {
    /// Stops the processors.
    fn pause(&mut self, deadline: Instant) -> Result<()>;

    /// Lets them go on.
    fn resume(&mut self, deadline: Instant) -> Result<()>;

    /// Asks the guest to leave so much of its memory to the host, in MiB: it does so in its own time.
    fn set_balloon(&mut self, mib: u32, deadline: Instant) -> Result<()>;

    /// How much it has left by now, in MiB.
    fn balloon(&mut self, deadline: Instant) -> Result<u32>;

    /// Stops the VM for good, and writes [`SNAPSHOT_STATE`] and [`SNAPSHOT_MEMORY`] into the monitor's
    /// folder. Its guest is silent. Only for a kind with a [`SnapshotIdentity`].
    fn save(&mut self, deadline: Instant) -> Result<()>;
}

/// The time until `deadline`, as a socket's time-out; an error if it is over.
pub fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // The kernel takes a time-out of zero for none at all.
    if left < Duration::from_micros(1) { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The kernel's command line, less what is particular to the monitor.
pub fn kernel_command_line() -> String {
    let debug = if log::log_enabled!(log::Level::Debug) { " sandbox.debug" } else { "" };
    format!("console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on{debug}")
}

/// The processes of a VM. The VM lives as long as all of them do.
pub struct Launched {
    /// The monitor: when it ends, the VM has ended.
    pub monitor: Member,
    /// Others that the VM cannot do without.
    pub helpers: Vec<Member>,
    /// The way to speak to the monitor.
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
