//! Sandboxes as Firecracker microVMs: production, where KVM works.
//!
//! A VM is one process. It is spawned directly, into its cgroup, its network's namespace and a root
//! folder of its own (the VM's `vmm/`), as a user that only it is, and without a way to gain privileges:
//! what Firecracker's `jailer` does, without copying the program or leaving folders; or else by that. All
//! paths that it is told are names in that folder, so they mean the same in every VM.
//!
//! | to know | read |
//! |---|---|
//! | how the process is confined | `monitor.rs` |
//! | how its own `jailer` does that instead | `jailer.rs` |
//! | what it is told, in which order | `boot.rs` |
//! | how a VM is saved, and goes on | `snapshot.rs` |
//! | its API | `api.rs`; what is asked of it while a VM runs: `remote.rs` |
//! | which versions are good | `version.rs` |

pub mod api;
pub mod boot;
mod check;
mod error;
mod jailer;
mod monitor;
mod program;
mod remote;
mod snapshot;
mod version;

use std::path::Path;

use microvm::{Factory, Launch, Launched, SnapshotIdentity, Vmm};
use vsock_host::Reactor;

pub use check::{check, check_jailer};
pub use error::{Error, Result};
pub use jailer::Jailer;
pub use program::Program;
pub use version::{Verdict, Version};

use self::boot::Boot;
use self::monitor::Monitor;

/// How Firecracker is to be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program.
    pub program: Program,
    /// What confines it, if that is not us.
    pub jailer: Option<Jailer>,
    /// Whether it filters its own system calls. A build for glibc cannot.
    pub seccomp: bool,
}

/// A factory of Firecracker VMs with their folders under `state` and their guests served by `reactor`.
pub fn factory(state: &Path, reactor: &Reactor, config: Config) -> Factory<impl Vmm + use<>> {
    Factory::new(state, reactor, Firecracker { config })
}

struct Firecracker {
    config: Config,
}

impl Vmm for Firecracker {
    fn kind(&self) -> &'static str {
        "firecracker"
    }

    fn launch(&self, launch: &Launch<'_>) -> microvm::Result<Launched> {
        let monitor = Monitor::spawn(&self.config, launch)?;
        let mut client = monitor.connect(launch)?;
        if launch.is_restored {
            let restored = snapshot::restore(&mut client, launch.deadline);
            restored.map_err(|error| monitor.explain(error))?;
            return Ok(monitor.launched(client));
        }
        let boot = Boot {
            vcpus: launch.config.vcpus,
            memory_mib: launch.config.memory_mib,
            command_line: &command_line(),
            has_network: launch.network.is_some(),
            disk_limits: launch.config.disk_limits,
        };
        boot::boot(&mut client, &boot, launch.deadline).map_err(|error| monitor.explain(error))?;
        Ok(monitor.launched(client))
    }

    fn overhead_mib(&self) -> u32 {
        128
    }

    fn snapshot_identity(&self) -> Option<SnapshotIdentity> {
        // A VM that talks more for once is the same.
        let text = command_line().replace(" sandbox.debug", "");
        Some(SnapshotIdentity { text, files: vec![self.config.program.path().to_owned()] })
    }
}

/// A guest's `reboot` ends Firecracker (`reboot=k`): there is no other way to power off. And no time is
/// spent on looking for a mouse.
fn command_line() -> String {
    let devices = "reboot=k i8042.noaux i8042.nomux i8042.dumbkbd";
    format!("{} {devices}", microvm::kernel_command_line())
}
