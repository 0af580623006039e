//! The virtual machines that there are. The only file that names a kind of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Cause, Sandbox, SandboxFactory, SandboxId};
use vsock_host::Reactor;

#[cfg(test)]
pub(crate) use microvm::Owner;
pub(crate) use microvm::{Finding, State, VmRecord};

use crate::error::{Error, Result};
use crate::interrupt::Pull;

/// How long the clearing up after dead runners may take.
const RECLAIM: Duration = Duration::from_secs(30);
/// How long another runner's VM may take to answer.
const ATTACH: Duration = Duration::from_secs(10);

/// What to run VMs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Vmm {
    /// The best that works on this host
    Auto,
    /// Firecracker (not in this build)
    Firecracker,
    /// QEMU's microvm machine, with KVM if it works, else emulated
    Qemu,
}

/// This process's connection to VMs, its own and those of others.
pub(crate) struct Host {
    state_dir: PathBuf,
    reactor: Reactor,
}

impl Host {
    /// Starts the thread that serves the connections to guests.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let reactor = Reactor::start().map_err(vm_error)?;
        Ok(Self { state_dir: state_dir.to_owned(), reactor })
    }

    /// Starts VMs. What dead runners left is removed before.
    pub(crate) fn factory(&self, vmm: Vmm) -> Result<Box<dyn SandboxFactory>> {
        if vmm == Vmm::Firecracker {
            return Err(Error::NoFirecracker);
        }
        // What cannot be removed is in nobody's way.
        if let Err(error) = reclaim(&self.state_dir) {
            log::error!("what a dead runner left stays; error={}", error.chain());
        }
        let factory = sandbox_qemu::factory(&self.state_dir, &self.reactor).map_err(vm_error)?;
        Ok(Box::new(factory))
    }

    /// A VM that some runner on this host owns.
    pub(crate) fn attach(&self, record: &VmRecord) -> Result<Box<dyn Sandbox>> {
        microvm::attach(record, &self.reactor, Instant::now() + ATTACH).map_err(vm_error)
    }

    /// Cuts all connections: whoever waits for a guest gets an error.
    pub(crate) fn cut(&self) -> Pull {
        let reactor = self.reactor.clone();
        Arc::new(move || {
            if let Err(error) = reactor.clone().stop() {
                log::error!("cannot cut the connections to guests; error={error}");
            }
        })
    }
}

/// Kills a VM that this process starts or runs, at whatever point it is.
pub(crate) fn plug(id: SandboxId) -> Pull {
    Arc::new(move || {
        if let Err(error) = microvm::kill(id) {
            log::error!("cannot kill the vm; vm={id} error={error}");
        }
    })
}

/// Ends a VM of whichever runner: in an orderly way if it answers, else by force.
pub(crate) fn stop(host: &Host, record: &VmRecord, deadline: Instant) -> Result<()> {
    match host.attach(record) {
        Ok(sandbox) => Ok(sandbox.stop(deadline)?),
        Err(error) => {
            log::warn!("vm is ended by force; vm={} reason={}", record.id, error.chain());
            microvm::force_stop(record).map_err(vm_error)
        }
    }
}

/// All VMs, the dead ones too.
pub(crate) fn list(state_dir: &Path) -> Result<Vec<VmRecord>> {
    microvm::list(state_dir).map_err(vm_error)
}

/// A running VM by its name, its id, or the beginning of that.
pub(crate) fn find(state_dir: &Path, name: &str) -> Result<VmRecord> {
    microvm::find(state_dir, name).map_err(vm_error)
}

/// Whether a VM is there and has an owner.
pub(crate) fn is_running(state_dir: &Path, id: SandboxId) -> Result<bool> {
    Ok(list(state_dir)?.iter().any(|record| record.id == id && record.alive))
}

/// Removes what dead runners left.
pub(crate) fn reclaim(state_dir: &Path) -> Result<Vec<SandboxId>> {
    microvm::reclaim(state_dir, Instant::now() + RECLAIM).map_err(vm_error)
}

/// What this host has and lacks for VMs.
pub(crate) fn check(state_dir: &Path) -> Vec<Finding> {
    let mut findings = microvm::check(state_dir);
    findings.extend(sandbox_qemu::missing_tools().into_iter().map(|tool| Finding {
        subject: tool.program,
        state: State::Missing,
        detail: "not found: VMs are made of it".to_owned(),
        remedy: Some(tool.remedy.to_owned()),
    }));
    findings
}

fn vm_error(error: impl Into<Cause>) -> Error {
    Error::Vm(error.into())
}
