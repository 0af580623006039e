//! Sandboxes as Firecracker microVMs: for production, on hosts with KVM.
//!
//! A VM is one process. It is spawned into its cgroup, its network's namespace and its own root folder
//! (the VM's `vmm/`), under its own UID, with `no_new_privs`: as Firecracker's `jailer` does, without
//! copying the program. The `jailer` can be used instead. All paths in requests are relative to the root
//! folder, so they are the same in every VM.
//!
//! | to know | read |
//! |---|---|
//! | how the process is confined | `monitor.rs` |
//! | the use of Firecracker's `jailer` | `jailer.rs` |
//! | the requests of a boot | `boot.rs` |
//! | how a VM is saved and restored | `snapshot.rs` |
//! | its API | `api.rs`; its use while a VM runs: `remote.rs` |
//! | supported versions | `version.rs` |

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

/// How to run Firecracker.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program.
    pub program: Program,
    /// Firecracker's jailer, if it is to confine the process.
    pub jailer: Option<Jailer>,
    /// Firecracker's built-in seccomp filter. Must be off for glibc builds.
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
        // Debug output does not make another kind of VM.
        let text = command_line().replace(" sandbox.debug", "");
        Some(SnapshotIdentity { text, files: vec![self.config.program.path().to_owned()] })
    }
}

/// `reboot=k` makes a guest's reboot end Firecracker: there is no other way to power off. The `i8042`
/// parameters skip the probe for a mouse.
fn command_line() -> String {
    let devices = "reboot=k i8042.noaux i8042.nomux i8042.dumbkbd";
    format!("{} {devices}", microvm::kernel_command_line())
}
