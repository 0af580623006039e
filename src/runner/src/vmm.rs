//! The virtual machines that there are. The only file that names a kind of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Cause, Network, Sandbox, SandboxFactory, SandboxId};
use vsock_host::Reactor;

#[cfg(test)]
pub(crate) use microvm::Owner;
pub(crate) use microvm::{Finding, PublishedPort, State, VmRecord};
pub(crate) use netns::{Lease, Pool as Networks, Range as NetworkRange};

use crate::cli::Global;
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

    /// Starts one VM. What dead runners left is removed before.
    pub(crate) fn factory(
        &self,
        vmm: Vmm,
        network: Option<&Network>,
        global: &Global,
    ) -> Result<Box<dyn SandboxFactory>> {
        if vmm == Vmm::Firecracker {
            return Err(Error::NoFirecracker);
        }
        // What cannot be removed is in nobody's way.
        if let Err(error) = reclaim(&self.state_dir) {
            log::error!("what a dead runner left stays; error={}", error.chain());
        }
        // After the VMs: whatever they left is in nobody's use any more.
        let networks = network.map(|network| start_networks(global, 1, network)).transpose()?;
        Ok(Box::new(self.start_factory(networks)))
    }

    /// Starts VMs, up to `size` at once of those that have a network. What dead runners left is
    /// removed before.
    pub(crate) fn factory_of(
        &self,
        vmm: Vmm,
        size: usize,
        global: &Global,
    ) -> Result<Arc<dyn SandboxFactory>> {
        if vmm == Vmm::Firecracker {
            return Err(Error::NoFirecracker);
        }
        // A VM that is still there may be at work on a job that is about to be handed out again.
        reclaim(&self.state_dir)?;
        Ok(Arc::new(self.start_factory(Some(networks(global, size)?))))
    }

    fn start_factory(&self, networks: Option<Networks>) -> impl SandboxFactory + use<> {
        let factory = sandbox_qemu::factory(&self.state_dir, &self.reactor);
        factory.with_networks(networks.map(Arc::new))
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

/// Kills any VM of this process.
pub(crate) fn plugs() -> crate::service::Plug {
    Arc::new(|id| plug(id)())
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

/// Removes what dead runners left of VMs.
pub(crate) fn reclaim(state_dir: &Path) -> Result<Vec<SandboxId>> {
    microvm::reclaim(state_dir, Instant::now() + RECLAIM).map_err(vm_error)
}

/// Removes what dead runners left of networks.
pub(crate) fn reclaim_networks(global: &Global) -> Result<Vec<String>> {
    netns::reclaim(&lock_path(global), global.network_range).map_err(vm_error)
}

/// Keeps networks ready that are not for VMs.
pub(crate) fn networks(global: &Global, size: usize) -> Result<Networks> {
    start_networks(global, size, &Network::default())
}

fn start_networks(global: &Global, size: usize, network: &Network) -> Result<Networks> {
    Networks::start(netns::Config {
        size,
        range: global.network_range,
        policy: network.policy.clone(),
        limits: network.limits,
        lock_path: lock_path(global),
        ..netns::Config::default()
    })
    .map_err(vm_error)
}

fn lock_path(global: &Global) -> PathBuf {
    global.runtime_dir.join("network.lock")
}

/// What this host has and lacks for VMs.
pub(crate) fn check(global: &Global) -> Vec<Finding> {
    let mut findings = microvm::check(&global.state_dir);
    findings.extend(netns::check(&lock_path(global), global.network_range).iter().map(network));
    findings.extend(sandbox_qemu::missing_tools().into_iter().map(|tool| Finding {
        subject: tool.program,
        state: State::Missing,
        detail: "not found: VMs are made of it".to_owned(),
        remedy: Some(tool.remedy.to_owned()),
    }));
    findings
}

/// What was found of networks, for people.
fn network(check: &netns::Check) -> Finding {
    let (state, detail, remedy) = match check {
        netns::Check::Works => (State::Good, "can be made".to_owned(), None),
        netns::Check::Fails { reason } => {
            (State::Missing, reason.clone(), Some("runner run --network none".to_owned()))
        }
        netns::Check::RangeTaken { reason } => (
            State::Missing,
            reason.clone(),
            Some("--network-range, or RUNNER_NETWORK_RANGE".to_owned()),
        ),
        netns::Check::NotForwarding => {
            let detail =
                "the host does not pass packets on; the first VM with a network changes that";
            (State::Good, detail.to_owned(), None)
        }
        netns::Check::Closed { chains } => {
            let detail = format!(
                "the host drops what VMs send, in {}: only services of the host are reached",
                chains.join(", ")
            );
            let remedy = "accept what comes from and goes to links named sr-*, for instance \
                nft insert rule ip filter FORWARD iifname 'sr-*' accept; the same with oifname";
            (State::Weak, detail, Some(remedy.to_owned()))
        }
        netns::Check::Leftovers { networks } => {
            let detail = format!("dead runners left {}", networks.join(", "));
            (State::Weak, detail, Some("runner gc".to_owned()))
        }
    };
    Finding { subject: "network", state, detail, remedy }
}

pub(crate) fn vm_error(error: impl Into<Cause>) -> Error {
    Error::Vm(error.into())
}
