//! `runner start`: runs the service until a signal ends it.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use egress::ProxyPool;
use nix::sys::signal::Signal;
use rootfs::Store;
use service::{Config, Dependencies, JobSource, Service, ServiceLock, probe};

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output;
use crate::sandbox_server::{self, SandboxServer};
use crate::signal::{self, Listener, Wake};
use crate::value;
use crate::vmm::{self, Host, Vmm};

const EXAMPLES: &str = "\
Examples:
  runner start --local                            take jobs from the queue of this host
  runner start --config /etc/runner.toml          take jobs from the platform in [api]
  runner start --config runner.toml --check       validate the configuration and exit

With [sandboxes] in the configuration it serves sandboxes to programs, too, in VMs of the same budget;
they end when the runner exits.

SIGTERM and SIGINT drain: running jobs finish, no new ones are taken, then the runner exits. A second
one cancels the jobs. SIGUSR1 pauses taking jobs, SIGUSR2 resumes. examples/runner.toml documents
every configuration key.";

/// Take jobs from a platform and run each in its own VM
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Configuration file [default: all defaults]
    #[arg(long, value_name = "FILE", env = "RUNNER_CONFIG", value_parser = value::os(value::absolute))]
    config: Option<PathBuf>,

    /// Run the embedded platform in this process, with its queue in the state folder
    #[cfg(feature = "platform")]
    #[arg(long)]
    local: bool,

    /// Virtual machine monitor
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    vmm: Vmm,

    /// Check configuration, images, disk space and platform, then exit
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default_for_host()?,
    };
    if !arguments.is_local() {
        config.check_remote()?;
    }
    let store = Store::open(&global.state_dir)?;
    check_profiles(&config, &store)?;
    let probed = if arguments.is_local() { Ok(()) } else { probe(&config) };
    if arguments.check {
        probed?;
        output::line("the configuration is good")?;
        return Ok(0);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    match probed {
        // It is read once, so this cannot come right.
        Err(error @ service::Error::PlatformRefuses { .. }) => return Err(error.into()),
        Err(error) => log::error!("the platform cannot be used; error={:?}", error.chain()),
        Ok(()) => {}
    }
    let (_listener, signals) = listen()?;
    let serves_sandboxes = !config.sandboxes.listen.is_empty();
    let listeners = serves_sandboxes.then(|| sandbox_server::listen(&config.sandboxes));
    let listeners = listeners.transpose()?;
    let _lock = ServiceLock::take(&global.state_dir)?;
    let host = Host::open(&global.state_dir)?;
    let examples = sandbox_server::examples(&config, &store)?;
    let factory = host.factory_of(arguments.vmm, config.max_vms(), &examples, global)?;
    let source = arguments.source(&config, global)?;
    let from = source.url();
    let proxies = ProxyPool::open(&global.state_dir, &global.runtime_dir)?;
    if config.profiles.values().any(|profile| profile.interception.is_some()) {
        // Python takes a second to start, in which there is no job yet.
        proxies.warm_up()?;
    }
    let dependencies = Dependencies {
        state_dir: global.state_dir.clone(),
        source,
        factory,
        kill_vm: vmm::kill_any(),
        images: sandbox_server::images(&store),
        proxies,
    };
    let service = Service::new(&config, dependencies, signals)?;
    let (name, most) = (&config.name, config.max_concurrent);
    let launcher = Arc::new(service.launcher(&config, sandbox_server::image_names(&store)));
    let sandboxes = listeners
        .map(|listeners| SandboxServer::start(global, &config.sandboxes, listeners, launcher));
    let sandboxes = sandboxes.transpose()?;
    output::line(format_args!("ready: runner={name} platform={from} max_concurrent={most}"))?;
    sandboxes.as_ref().map_or(Ok(()), SandboxServer::announce)?;
    service.run()?;
    sandboxes.map_or(Ok(()), SandboxServer::stop)?;
    Ok(0)
}

impl Arguments {
    fn is_local(&self) -> bool {
        #[cfg(feature = "platform")]
        return self.local;
        #[cfg(not(feature = "platform"))]
        false
    }

    fn source(&self, config: &Config, global: &Global) -> Result<JobSource> {
        #[cfg(feature = "platform")]
        if self.local {
            return Ok(JobSource::embedded(&global.state_dir, config)?);
        }
        Ok(JobSource::remote(&global.state_dir, config)?)
    }
}

/// Checks that each profile has its image, and room for a disk.
fn check_profiles(config: &Config, store: &Store) -> Result<()> {
    for (name, profile) in &config.profiles {
        let good = profile.disk_mib.map_or(Ok(()), |mib| store.warn_of_little_room(mib));
        good.and(store.get(&profile.image)).map_err(|source| Error::Profile {
            name: name.clone(),
            source: Box::new(source.into()),
        })?;
    }
    Ok(())
}

/// Signals, as they come.
fn listen() -> Result<(Listener, Receiver<Signal>)> {
    let blocked = signal::block_for_service()?;
    let (tell, signals) = unbounded();
    let listener = Listener::start(blocked, move |wake| {
        if let Wake::Signal(signal) = wake {
            let _ = tell.send(signal);
        }
        None
    })?;
    Ok((listener, signals))
}
