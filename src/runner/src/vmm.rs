//! The virtual machines that there are. The only file that names a kind of them.

mod finding;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{
    Cancellation, Cause, HostFilter, Network, Sandbox, SandboxConfig, SandboxFactory, SandboxId,
};
use vsock_host::Reactor;

use microvm::Kvm;
#[cfg(test)]
pub(crate) use microvm::Owner;
pub(crate) use microvm::{Finding, Phase, PublishedPort, State, VmRecord};
pub(crate) use netns::{Lease, Pool as Networks};

use crate::error::{Error, Result};
use crate::interrupt::Pull;
use crate::options::{Global, Switch};

/// How long the clearing up after dead runners may take.
const RECLAIM: Duration = Duration::from_secs(30);
/// How long the saving of a VM may take, its boot included: an emulated one on a loaded host is slow.
const SAVE: Duration = Duration::from_secs(600);
/// How long another runner's VM may take to answer.
const ATTACH: Duration = Duration::from_secs(10);

/// The monitor that a command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Vmm {
    /// Firecracker if it is installed and KVM works, else QEMU
    Auto,
    /// Firecracker; needs KVM
    Firecracker,
    /// QEMU's microvm machine, with KVM or emulated
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
        let monitor = choose(vmm, global)?;
        self.reclaim();
        // After the VMs: whatever they left is in nobody's use any more.
        let networks = network.map(|network| start_networks(global, 1, network)).transpose()?;
        Ok(self.start_factory(monitor, networks, false))
    }

    /// Starts VMs, up to `size` at once of those that have a network. What dead runners left is
    /// removed before. Those that are like one of the examples need not boot, where a monitor can do
    /// that.
    pub(crate) fn factory_of(
        &self,
        vmm: Vmm,
        size: usize,
        examples: &[SandboxConfig],
        global: &Global,
    ) -> Result<Arc<dyn SandboxFactory>> {
        let monitor = choose(vmm, global)?;
        // A VM that is still there may be at work on a job that is about to be handed out again.
        reclaim(&self.state_dir)?;
        let networks = Some(Arc::new(networks(global, size)?));
        let (state, reactor) = (&self.state_dir, &self.reactor);
        match monitor {
            Monitor::Qemu => {
                Ok(Arc::new(sandbox_qemu::factory(state, reactor).with_networks(networks)))
            }
            Monitor::Firecracker(config) => {
                let factory = sandbox_fc::factory(state, reactor, config).with_networks(networks);
                for example in examples {
                    let begun = Instant::now();
                    log_saved(
                        factory.ensure_saved(example, &Cancellation::new(), begun + SAVE),
                        begun,
                    );
                }
                Ok(Arc::new(factory))
            }
        }
    }

    /// Starts VMs to be measured, up to `size` at once if they have networks; they boot if
    /// `is_cold`.
    pub(crate) fn bench_factory(
        &self,
        vmm: Vmm,
        size: Option<usize>,
        is_cold: bool,
        global: &Global,
    ) -> Result<Box<dyn SandboxFactory>> {
        let monitor = choose(vmm, global)?;
        self.reclaim();
        let networks = size.map(|size| networks(global, size)).transpose()?;
        Ok(self.start_factory(monitor, networks, is_cold))
    }

    /// Boots one VM and saves it, for later ones to go on from.
    pub(crate) fn save(
        &self,
        vmm: Vmm,
        (config, cancellation): (&SandboxConfig, &Cancellation),
        global: &Global,
        warm_up: &mut microvm::WarmUp<'_>,
    ) -> Result<()> {
        let deadline = Instant::now() + SAVE;
        let monitor = choose(vmm, global)?;
        self.reclaim();
        let network = config.network.as_ref();
        let networks = network.map(|network| start_networks(global, 1, network)).transpose()?;
        let networks = networks.map(Arc::new);
        let (state, reactor) = (&self.state_dir, &self.reactor);
        let saved = match monitor {
            Monitor::Qemu => {
                let factory = sandbox_qemu::factory(state, reactor).with_networks(networks);
                factory.save(config, warm_up, cancellation, deadline)
            }
            Monitor::Firecracker(monitor) => {
                let factory = sandbox_fc::factory(state, reactor, monitor).with_networks(networks);
                factory.save(config, warm_up, cancellation, deadline)
            }
        };
        saved.map_err(vm_error)
    }

    fn reclaim(&self) {
        // What cannot be removed is in nobody's way.
        if let Err(error) = reclaim(&self.state_dir) {
            log::error!("what a dead runner left stays; error={}", error.chain());
        }
    }

    fn start_factory(
        &self,
        monitor: Monitor,
        networks: Option<Networks>,
        is_cold: bool,
    ) -> Box<dyn SandboxFactory> {
        let networks = networks.map(Arc::new);
        let (state, reactor) = (&self.state_dir, &self.reactor);
        match monitor {
            Monitor::Qemu => {
                Box::new(sandbox_qemu::factory(state, reactor).with_networks(networks))
            }
            Monitor::Firecracker(config) => {
                let factory = sandbox_fc::factory(state, reactor, config).with_networks(networks);
                Box::new(if is_cold { factory.without_snapshots() } else { factory })
            }
        }
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

/// If none can be saved, VMs boot.
fn log_saved(saved: std::result::Result<bool, impl Into<Cause>>, begun: Instant) {
    match saved {
        Ok(false) => {}
        Ok(true) => log::info!("a vm was saved; ms={}", begun.elapsed().as_millis()),
        Err(error) => {
            log::warn!("vms boot, as none can be saved; error={}", vm_error(error).chain());
        }
    }
}

/// What runs VMs on this host.
enum Monitor {
    Qemu,
    Firecracker(sandbox_fc::Config),
}

/// The monitor that was asked for, if it can be had here.
fn choose(vmm: Vmm, global: &Global) -> Result<Monitor> {
    if vmm == Vmm::Qemu {
        return Ok(Monitor::Qemu);
    }
    match (firecracker(global), vmm) {
        (Ok(config), _) => Ok(Monitor::Firecracker(config)),
        (Err(error), Vmm::Firecracker) => Err(error),
        // One that is named and not there is a mistake, and not the lack of one.
        (Err(error @ Error::NoFirecracker), _) if global.firecracker.is_some() => Err(error),
        // Nor is one that is to be confined in a way in which it cannot be.
        (Err(error @ Error::Jailer(_)), _) => Err(error),
        (Err(error), _) => {
            log::info!("vms are run by qemu; reason={}", error.chain());
            Ok(Monitor::Qemu)
        }
    }
}

fn firecracker(global: &Global) -> Result<sandbox_fc::Config> {
    let program = sandbox_fc::Program::find(global.firecracker.as_deref());
    let program = program.ok_or(Error::NoFirecracker)?;
    if let Kvm::Missing { reason } = microvm::probe() {
        return Err(Error::FirecrackerNeedsKvm { reason });
    }
    let jailer = global.firecracker_jailer.as_deref();
    let jailer = jailer.map(|path| sandbox_fc::Jailer::find(path, &program)).transpose();
    let jailer = jailer.map_err(|error| Error::Jailer(error.into()))?;
    let seccomp = global.firecracker_seccomp == Switch::On;
    Ok(sandbox_fc::Config { program, jailer, seccomp })
}

/// Kills a VM of this process, or cancels its start.
pub(crate) fn plug(id: SandboxId, cancellation: &Cancellation) -> Pull {
    let cancellation = cancellation.clone();
    Arc::new(move || {
        cancellation.cancel();
        kill(id);
    })
}

fn kill(id: SandboxId) {
    if let Err(error) = microvm::kill(id) {
        log::error!("cannot kill the vm; vm={id} error={error}");
    }
}

/// Kills any VM of this process.
pub(crate) fn plugs() -> crate::service::Plug {
    Arc::new(kill)
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

/// Keeps the folders of all VMs where they are, until what this returns is dropped.
pub(crate) fn lock_folders(vm: &VmRecord) -> Result<impl Drop + use<>> {
    microvm::lock_folders(vm).map_err(vm_error)
}

/// Whether a VM is there and has an owner.
pub(crate) fn is_running(state_dir: &Path, id: SandboxId) -> Result<bool> {
    Ok(list(state_dir)?.iter().any(|record| record.id == id && record.alive))
}

/// Removes what dead runners left of VMs.
pub(crate) fn reclaim(state_dir: &Path) -> Result<Vec<SandboxId>> {
    microvm::reclaim(state_dir, Instant::now() + RECLAIM).map_err(vm_error)
}

/// Removes saved VMs that nothing can go on from any more.
pub(crate) fn sweep(state_dir: &Path) -> Result<Vec<String>> {
    microvm::sweep(state_dir).map_err(vm_error)
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

/// What keeps proxies from the host's own addresses.
pub(crate) fn proxy_filter() -> Arc<dyn HostFilter> {
    Arc::new(netns::ProxyFilter)
}

/// Does something with a network on a host that is made for it, and gone afterwards.
pub(crate) fn on_a_trial_network<T: Send>(
    folder: &Path,
    deadline: Instant,
    work: impl FnOnce(&mut Lease) -> std::result::Result<T, Cause> + Send,
) -> std::result::Result<T, Cause> {
    netns::in_new_namespace(|| {
        let lock_path = folder.join("network.lock");
        let networks = Networks::start(netns::Config { lock_path, ..netns::Config::default() })?;
        work(&mut networks.lease(deadline)?)
    })?
}

fn lock_path(global: &Global) -> PathBuf {
    global.runtime_dir.join("network.lock")
}

/// What this host has and lacks for VMs.
pub(crate) fn check(global: &Global) -> Vec<Finding> {
    let mut findings = microvm::check(&global.state_dir);
    findings.extend(netns::check(&lock_path(global), global.network_range).iter().map(finding::of));
    let firecracker = sandbox_fc::check(global.firecracker.as_deref());
    let is_needed = firecracker.state == State::Weak || microvm::probe() != Kvm::Works;
    findings.push(firecracker);
    if let Some(path) = &global.firecracker_jailer {
        findings.push(sandbox_fc::check_jailer(path, global.firecracker.as_deref()));
    }
    findings.extend(sandbox_qemu::missing_tools().into_iter().map(|tool| Finding {
        subject: tool.program,
        state: if is_needed { State::Missing } else { State::Weak },
        detail: "not found: VMs are made of it where Firecracker does not run".to_owned(),
        remedy: Some(tool.remedy.to_owned()),
    }));
    findings
}

pub(crate) fn vm_error(error: impl Into<Cause>) -> Error {
    Error::Vm(error.into())
}
