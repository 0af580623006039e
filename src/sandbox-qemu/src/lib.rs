//! Sandboxes as QEMU `microvm` machines: with KVM if it works, else emulated (TCG).
//!
//! A VM is two processes: QEMU, and its vsock device `vhost-device-vsock` (vhost-user). A guest's
//! connection to CID 2, port P, arrives at the Unix socket `v.sock_P`, as with Firecracker. Both run in the
//! VM's folder, under its UID, in its cgroup, in an empty network namespace, with `no_new_privs`.

mod command_line;
mod qmp;
mod sys;
mod tool;
mod tsc;
mod vsock_device;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use microvm::{Factory, Kvm, Launch, Launched, Member, Result, Vmm};
use process::{Command, Network, Resource};
use vsock_host::Reactor;

use command_line::Accelerator;
use qmp::{Qmp, Vm};
use tool::Tool;
pub use tool::{MissingTool, missing_tools};
use tsc::Tsc;

/// A factory of QEMU VMs with their folders under `state` and their guests served by `reactor`.
pub fn factory(state: &Path, reactor: &Reactor) -> Factory<impl Vmm + use<>> {
    Factory::new(state, reactor, Qemu { has_kvm: has_kvm(), tsc: Tsc::read() })
}

fn has_kvm() -> bool {
    match microvm::probe() {
        Kvm::Works => true,
        Kvm::Missing { reason } => {
            log::info!("vms are emulated; reason={reason:?}");
            false
        }
    }
}

const KIND: &str = "qemu";

struct Qemu {
    has_kvm: bool,
    tsc: Tsc,
}

impl Qemu {
    fn accelerator(&self) -> Accelerator {
        if self.has_kvm {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg { tsc_khz: self.tsc.rate_khz() }
        }
    }
}

impl Vmm for Qemu {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<Launched> {
        let (console, console_tx) = pipe()?;
        let (errors, errors_tx) = pipe()?;
        let qemu = Tool::find(tool::QEMU)?;
        let device = vsock_device::start(launch, &errors, duplicate(&errors_tx)?)?;
        let device_pid = device.child.pid();
        let (ours, qemus) = UnixStream::pair().map_err(descriptors)?;
        let mut monitor = confined(qemu.command(), launch, self.has_kvm)
            .descriptor(qemus)
            .args(command_line::arguments(launch, &self.accelerator()))
            .stdout(console_tx)
            .stderr(errors_tx);
        // QEMU gets only the tap's descriptor: its own namespace stays empty.
        if let Some(network) = launch.network {
            monitor = monitor.descriptor(network.open_tap().map_err(microvm::Error::Network)?);
        }
        let monitor = monitor.spawn().map_err(microvm::Error::Process)?;
        Ok(Launched {
            monitor: Member { program: tool::QEMU, child: monitor },
            helpers: vec![device],
            remote: Box::new(Vm {
                qmp: Qmp::new(ours),
                memory_mib: launch.config.memory_mib,
                device: device_pid,
            }),
            console,
            errors,
        })
    }

    /// TCG's translation buffer takes 256 MiB; the rest is for vhost-device-vsock and QEMU itself.
    fn overhead_mib(&self) -> u32 {
        640
    }
}

/// The confinement of each process of a VM.
fn confined<'a>(command: Command<'a>, launch: &Launch<'a>, needs_kvm: bool) -> Command<'a> {
    let mut credentials = launch.credentials.clone();
    if needs_kvm {
        credentials.groups.extend(microvm::kvm_group());
    }
    command
        .cwd(launch.folder.working_folder())
        .cgroup(launch.cgroup)
        .credentials(credentials)
        .network(Network::Empty)
        .new_session()
        .no_new_privileges()
        .parent_death_signal(libc::SIGKILL)
        .limit(Resource::CoreDump, 0, 0)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (rx, tx) = std::io::pipe().map_err(descriptors)?;
    Ok((rx.into(), tx.into()))
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().map_err(descriptors)
}

fn descriptors(source: std::io::Error) -> microvm::Error {
    let program = tool::QEMU.to_owned();
    microvm::Error::Process(process::Error::Descriptors { program, source })
}
