//! `runner image snapshot`: saves a booted VM, from which later VMs are restored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use egress::NetworkChoice;
use rootfs::Store;
use sandbox::{
    Cancellation, Cause, DiskLimits, ExecRequest, Network, Outcome, SandboxConfig, SandboxId,
    Stream, label,
};
use service::Config;

use crate::attend::{AttendedCommand, attend};
use crate::error::{Error, Result};
use crate::interrupt::{FirstSignal, Interrupt};
use crate::options::Global;
use crate::output::{self, Output};
use crate::value;
use crate::vmm::{self, Host, Vmm};
use crate::{image, shortage, signal};

const EXAMPLES: &str = "\
Examples:
  runner image snapshot default
  runner image snapshot claude --vcpus 2 --memory 2048 --warm claude --version
  runner image snapshot claude --config /etc/runner.toml --profile default";

/// Save a snapshot of a booted VM, from which later VMs of the same size are restored
///
/// A VM is restored from the snapshot if image, size, disk limits and the presence of a network are
/// the same. A change of the host's kernel, CPU or monitor makes the snapshot stale.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Name of the image
    name: String,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: u32,

    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(96..))]
    memory: u32,

    /// Size of the writable disk, like 20G [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = egress::disk::size)]
    disk: Option<u64>,

    /// Disk limits per second: bytes, operations, or both
    #[arg(long, value_name = "bandwidth=200M,operations=5000", value_parser = egress::disk::limits)]
    disk_limit: Option<DiskLimits>,

    /// Network of the VMs
    #[arg(long, value_name = "open|none|policy=FILE", default_value = "open", value_parser = value::os(NetworkChoice::parse))]
    network: NetworkChoice,

    /// Take size, limits and network from this profile of the service
    #[arg(long, value_name = "NAME", requires = "config", conflicts_with_all = ["vcpus", "memory", "disk", "disk_limit", "network"])]
    profile: Option<String>,

    /// Configuration of the service
    #[arg(long, value_name = "FILE", env = "RUNNER_CONFIG", value_parser = value::os(value::absolute))]
    config: Option<PathBuf>,

    /// Virtual machine monitor
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    vmm: Vmm,

    /// Command to run before the snapshot, to warm up caches; takes all remaining arguments
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    warm: Vec<OsString>,
}

/// What VMs have that go on from the saved one.
struct Size {
    vcpus: u32,
    memory_mib: u32,
    disk_mib: Option<u64>,
    disk_limits: DiskLimits,
    network: Option<Network>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let config = arguments.understand(global)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let signals = signal::block()?;
    let host = Host::open(&global.state_dir)?;
    let cancellation = Cancellation::new();
    let kill = vmm::kill_vm(config.id, &cancellation);
    let interrupt = Interrupt::start(signals, FirstSignal::Forward, kill)?;
    let begun = Instant::now();
    let saved = host.save(arguments.vmm, (&config, &cancellation), global, &mut |sandbox| {
        arguments.warm_up(sandbox, config.memory_mib, &interrupt).map_err(Cause::from)
    });
    interrupt.or_interrupted(saved)?;
    if !global.quiet {
        output::remark(format_args!("saved in {:.1?}", begun.elapsed()));
    }
    output::line(&arguments.name)
}

impl Arguments {
    fn understand(&self, global: &Global) -> Result<SandboxConfig> {
        let store = Store::open(&global.state_dir)?;
        let image = store.get(&self.name)?;
        let size = self.size()?;
        let id = SandboxId::random()?;
        Ok(SandboxConfig {
            id,
            name: None,
            labels: BTreeMap::from([(label::IMAGE.to_owned(), image.name.clone())]),
            image: image::files(&store, &image, size.disk_mib)?,
            vcpus: size.vcpus,
            memory_mib: size.memory_mib,
            disk_limits: size.disk_limits,
            network: size.network,
            hostname: "snapshot".to_owned(),
            timezone: None,
            host_authorities: Vec::new(),
        })
    }

    fn size(&self) -> Result<Size> {
        if let (Some(name), Some(path)) = (&self.profile, &self.config) {
            let config = Config::read(path)?;
            let unknown = || Error::NoProfile { name: name.clone(), path: path.clone() };
            let profile = config.profiles.get(name).ok_or_else(unknown)?;
            return Ok(Size {
                vcpus: profile.resources.vcpus,
                memory_mib: profile.resources.memory_mib,
                disk_mib: profile.disk_mib,
                disk_limits: profile.disk_limits,
                network: profile.network.clone(),
            });
        }
        let network = match &self.network {
            NetworkChoice::Open | NetworkChoice::Intercept(_) => Some(Network::default()),
            NetworkChoice::Policy(path) => Some(egress::network::read(path)?),
            NetworkChoice::None => None,
        };
        Ok(Size {
            vcpus: self.vcpus,
            memory_mib: self.memory,
            disk_mib: self.disk,
            disk_limits: self.disk_limit.unwrap_or_default(),
            network,
        })
    }

    fn warm_up(
        &self,
        sandbox: &dyn sandbox::Sandbox,
        memory_mib: u32,
        interrupt: &Interrupt,
    ) -> Result<()> {
        interrupt.check()?;
        let Some(program) = self.warm.first() else { return Ok(()) };
        let command =
            AttendedCommand::new(ExecRequest { argv: self.warm.clone(), ..ExecRequest::default() });
        // What it prints is not the result of this command.
        let mut output = Output::open()?;
        let mut sink = |_: Stream, data: &[u8]| output.write(Stream::Stderr, data);
        let exit = attend(sandbox, &command, interrupt, &mut sink)?;
        shortage::print(&exit, memory_mib);
        match exit.outcome {
            Outcome::Exited(0) => Ok(()),
            other => Err(Error::WarmUp {
                program: program.to_string_lossy().into_owned(),
                code: other.exit_code(),
            }),
        }
    }
}
