//! Starts, finds and ends virtual machines. The only file that names the kinds of monitors.

mod network_check;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Cancellation, Cause, Network, Sandbox, SandboxConfig, SandboxFactory, SandboxId};
use vsock_host::Reactor;

use microvm::Kvm;
#[cfg(test)]
pub(crate) use microvm::Owner;
pub(crate) use microvm::{CheckState, HostCheck, Phase, PublishedPort, VmRecord};
pub(crate) use netns::{Lease, Pool as Networks};

use crate::error::{Error, Result};
use crate::options::{Global, Switch};

/// How long the reclamation of dead runners' resources may take.
const RECLAIM: Duration = Duration::from_secs(30);
/// How long a snapshot may take, including the boot: an emulated VM on a loaded host is slow.
const SAVE: Duration = Duration::from_secs(600);
/// How long a VM of another runner may take to answer.
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

/// Connections of this process to VMs: its own and those of other runners.
pub(crate) struct Host {
    state_dir: PathBuf,
    reactor: Reactor,
}

impl Host {
    /// Starts the reactor thread, which serves the connections to guests.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let reactor = Reactor::start().map_err(vm_error)?;
        Ok(Self { state_dir: state_dir.to_owned(), reactor })
    }

    /// A factory for one VM. Reclaims the resources of dead runners first.
    pub(crate) fn factory(
        &self,
        vmm: Vmm,
        network: Option<&Network>,
        global: &Global,
    ) -> Result<Box<dyn SandboxFactory>> {
        let monitor = choose(vmm, global)?;
        self.reclaim();
        // After the VMs are reclaimed, their networks are unused.
        let networks = network.map(|network| start_networks(global, 1, network)).transpose()?;
        Ok(self.start_factory(monitor, networks, false))
    }

    /// A factory for up to `size` concurrent VMs with networks. Reclaims the resources of dead runners
    /// first. If the monitor supports snapshots, one is made for each of `examples`, and VMs of the
    /// same configuration are restored from it.
    pub(crate) fn factory_of(
        &self,
        vmm: Vmm,
        size: usize,
        examples: &[SandboxConfig],
        global: &Global,
    ) -> Result<Arc<dyn SandboxFactory>> {
        let monitor = choose(vmm, global)?;
        // A VM that still runs may work on a job that the platform is about to assign again.
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

    /// A factory for measurements: up to `size` concurrent VMs with networks, or any number without.
    /// With `is_cold`, VMs boot even if there is a snapshot.
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

    /// Boots one VM and saves a snapshot of it.
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
        // Leftovers do not prevent a start.
        if let Err(error) = reclaim(&self.state_dir) {
            log::error!("cannot reclaim the resources of dead runners; error={}", error.chain());
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

    /// Connects to a VM of any runner on this host.
    pub(crate) fn attach(&self, record: &VmRecord) -> Result<Box<dyn Sandbox>> {
        microvm::attach(record, &self.reactor, Instant::now() + ATTACH).map_err(vm_error)
    }

    /// A function that cuts all connections to guests; requests to them then fail.
    pub(crate) fn disconnect(&self) -> Arc<dyn Fn() + Send + Sync> {
        let reactor = self.reactor.clone();
        Arc::new(move || {
            if let Err(error) = reactor.clone().stop() {
                log::error!("cannot cut the connections to guests; error={error}");
            }
        })
    }
}

/// Logs the result of a snapshot. Without one, VMs boot.
fn log_saved(saved: std::result::Result<bool, impl Into<Cause>>, begun: Instant) {
    match saved {
        Ok(false) => {}
        Ok(true) => log::info!("snapshot saved; ms={}", begun.elapsed().as_millis()),
        Err(error) => {
            log::warn!("cannot save a snapshot, so vms boot; error={}", vm_error(error).chain());
        }
    }
}

/// The monitor that runs VMs on this host.
enum Monitor {
    Qemu,
    Firecracker(sandbox_fc::Config),
}

/// The monitor of the command line, if this host supports it.
fn choose(vmm: Vmm, global: &Global) -> Result<Monitor> {
    if vmm == Vmm::Qemu {
        return Ok(Monitor::Qemu);
    }
    match (firecracker(global), vmm) {
        (Ok(config), _) => Ok(Monitor::Firecracker(config)),
        (Err(error), Vmm::Firecracker) => Err(error),
        // A wrong --firecracker is an error, not a reason to fall back to QEMU.
        (Err(error @ Error::NoFirecracker), _) if global.firecracker.is_some() => Err(error),
        // So is a jailer that cannot be used.
        (Err(error @ Error::Jailer(_)), _) => Err(error),
        (Err(error), _) => {
            log::info!("using qemu; reason={}", error.chain());
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

/// A function that cancels the start of a VM of this process, or kills it.
pub(crate) fn kill_vm(id: SandboxId, cancellation: &Cancellation) -> Arc<dyn Fn() + Send + Sync> {
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

/// A function that kills any VM of this process.
pub(crate) fn kill_any() -> Arc<dyn Fn(SandboxId) + Send + Sync> {
    Arc::new(kill)
}

/// Shuts down a VM of any runner; kills it if it does not answer.
pub(crate) fn stop(host: &Host, record: &VmRecord, deadline: Instant) -> Result<()> {
    match host.attach(record) {
        Ok(sandbox) => Ok(sandbox.stop(deadline)?),
        Err(error) => {
            log::warn!("killing the vm; vm={} reason={}", record.id, error.chain());
            microvm::force_stop(record).map_err(vm_error)
        }
    }
}

/// All VMs, including those of dead runners.
pub(crate) fn list(state_dir: &Path) -> Result<Vec<VmRecord>> {
    microvm::list(state_dir).map_err(vm_error)
}

/// Finds a running VM by name, id, or unique prefix of the id.
pub(crate) fn find(state_dir: &Path, name: &str) -> Result<VmRecord> {
    microvm::find(state_dir, name).map_err(vm_error)
}

/// Takes the lock that protects the folders of all VMs from removal.
pub(crate) fn lock_folders(vm: &VmRecord) -> Result<impl Drop + use<>> {
    microvm::lock_folders(vm).map_err(vm_error)
}

/// Whether a VM exists and its runner lives.
pub(crate) fn is_running(state_dir: &Path, id: SandboxId) -> Result<bool> {
    Ok(list(state_dir)?.iter().any(|record| record.id == id && record.alive))
}

/// Removes the VMs of dead runners.
pub(crate) fn reclaim(state_dir: &Path) -> Result<Vec<SandboxId>> {
    microvm::reclaim(state_dir, Instant::now() + RECLAIM).map_err(vm_error)
}

/// Removes snapshots that no VM can be restored from any more.
pub(crate) fn remove_stale_snapshots(state_dir: &Path) -> Result<Vec<String>> {
    microvm::sweep(state_dir).map_err(vm_error)
}

/// Removes the networks of dead runners.
pub(crate) fn reclaim_networks(global: &Global) -> Result<Vec<String>> {
    netns::reclaim(&lock_path(global), global.network_range).map_err(vm_error)
}

/// A pool of networks with the default policy.
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

/// Checks what this host needs to run VMs.
pub(crate) fn check(global: &Global) -> Vec<HostCheck> {
    let mut checks = microvm::check(&global.state_dir);
    checks.extend(
        netns::check(&lock_path(global), global.network_range).iter().map(network_check::of),
    );
    let firecracker = sandbox_fc::check(global.firecracker.as_deref());
    let is_needed = firecracker.state == CheckState::Weak || microvm::probe() != Kvm::Works;
    checks.push(firecracker);
    if let Some(path) = &global.firecracker_jailer {
        checks.push(sandbox_fc::check_jailer(path, global.firecracker.as_deref()));
    }
    checks.extend(sandbox_qemu::missing_tools().into_iter().map(|tool| HostCheck {
        subject: tool.program,
        state: if is_needed { CheckState::Missing } else { CheckState::Weak },
        detail: "not found: it runs VMs where Firecracker cannot".to_owned(),
        remedy: Some(tool.remedy.to_owned()),
    }));
    checks
}

pub(crate) fn vm_error(error: impl Into<Cause>) -> Error {
    Error::Vm(error.into())
}
