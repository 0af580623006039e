//! `runner mcp`: sandboxes for an agent, over standard input and output.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::event::Event;
use egress::NetworkChoice;
use nix::sys::signal::Signal;
use rootfs::Store;
use sandbox::Network;
use sandbox_api::{Sandboxes, Settings, SystemClock};
use service::Config;

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::{self, Output};
use crate::sandbox_server;
use crate::signal::{self, Listener, Wake};
use crate::value;
use crate::vmm::Vmm;

const EXAMPLES: &str = "\
Examples:
  runner image build base                           the image that sandboxes are made from
  claude mcp add sandbox -- runner mcp              for Claude Code that runs as root
  claude mcp add sandbox -- sudo -n runner mcp      for other users, if sudo asks for no password
  runner mcp --network none --sandboxes 2           no internet, at most two sandboxes

It speaks the Model Context Protocol: messages on standard input and output, logs on standard error.
It ends with its client (the end of standard input), or by SIGTERM or SIGINT, and with it all of its
sandboxes. `runner sandbox serve` has the same tools at http://127.0.0.1:8490/mcp, for many clients.
docs/sandboxes.md describes the tools.";

/// Serve sandboxes to an agent over MCP, on standard input and output
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// What sandboxes are made from: a profile or an image [default: base, else default]
    #[arg(long, value_name = "NAME")]
    template: Option<String>,

    /// How long a sandbox stays that is not used
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse, default_value = "1h")]
    timeout: Duration,

    /// How long a command may run for which the agent names no time
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse, default_value = "2m")]
    command_timeout: Duration,

    /// The most sandboxes at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    sandboxes: u32,

    /// Virtual CPUs of each sandbox [default: the profile's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: Option<u32>,

    /// Memory of each sandbox, in MiB [default: the profile's]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(96..))]
    memory: Option<u32>,

    /// Network of each sandbox. `open`: the public internet. `none`: no network. policy=FILE: addresses
    /// and ports, see docs/network.md [default: the profile's]
    #[arg(long, value_name = "open|none|policy=FILE", value_parser = value::os(network))]
    network: Option<NetworkChoice>,

    /// The most bytes of text in a result; more of a command's output is kept in a file of the sandbox
    #[arg(long, value_name = "BYTES", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    max_result: u32,

    /// Configuration file with profiles and `[sandboxes]` [default: all defaults]
    #[arg(long, value_name = "FILE", env = "RUNNER_CONFIG", value_parser = value::os(value::absolute))]
    config: Option<PathBuf>,

    /// Virtual machine monitor
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    vmm: Vmm,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let config = arguments.config()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let stop = Arc::new(Event::new().map_err(|errno| Error::Signals { source: errno.into() })?);
    let _listener = listen(&stop)?;
    let store = Store::open(&global.state_dir)?;
    let launcher = sandbox_server::launcher(global, &config, &store, arguments.vmm)?;
    let settings = Settings {
        default_timeout: arguments.timeout,
        max_timeout: config.sandboxes.max_timeout.max(arguments.timeout),
    };
    let sandboxes = Sandboxes::start(Arc::new(launcher), settings, Arc::new(SystemClock))?;
    let server = mcp::Server::local(Arc::new(sandboxes), arguments.options());
    let stdin = io::stdin();
    if stdin.is_terminal() {
        output::remark("this speaks MCP on standard input and output: an agent is to start it");
    }
    let input = stdin.as_fd().try_clone_to_owned().map_err(|source| Error::Stdin { source })?;
    let output = Output::open()?.cancel_on(&stop).stdout;
    mcp::serve(server, File::from(input), output, &stop)
        .map_err(|source| Error::Stdin { source })?;
    Ok(0)
}

/// Has signals end the server.
fn listen(stop: &Arc<Event>) -> Result<Listener> {
    let stop = Arc::clone(stop);
    Listener::start(signal::block()?, move |wake| {
        if let Wake::Signal(signal) = wake
            && signal != Signal::SIGWINCH
        {
            log::info!("stopping; signal={signal}");
            stop.set();
        }
        None
    })
}

impl Arguments {
    /// The configuration. The command line overrides the file, for all profiles.
    fn config(&self) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default_for_host()?,
        };
        let most = self.sandboxes as usize;
        config.sandboxes.max = most;
        config.max_concurrent = config.max_concurrent.min(most);
        let network = self.network()?;
        for profile in config.profiles.values_mut() {
            let resources = &mut profile.resources;
            resources.vcpus = self.vcpus.unwrap_or(resources.vcpus);
            resources.memory_mib = self.memory.unwrap_or(resources.memory_mib);
            if let Some(network) = &network {
                profile.network.clone_from(network);
                profile.interception = None;
            }
        }
        Ok(config)
    }

    /// The network of all sandboxes, if the command line has it.
    fn network(&self) -> Result<Option<Option<Network>>> {
        Ok(match &self.network {
            Some(NetworkChoice::None) => Some(None),
            Some(NetworkChoice::Policy(path)) => Some(Some(egress::network::read(path)?)),
            Some(_) => Some(Some(Network::default())),
            None => None,
        })
    }

    fn options(&self) -> mcp::Options {
        mcp::Options {
            template: self.template.clone(),
            timeout: Some(self.timeout),
            command_timeout: self.command_timeout,
            max_result: self.max_result as usize,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Sandboxes are not intercepted.
fn network(text: &[u8]) -> std::result::Result<NetworkChoice, &'static str> {
    match NetworkChoice::parse(text) {
        Ok(NetworkChoice::Intercept(_)) | Err(_) => Err("expected open, none, or policy=FILE"),
        choice => choice,
    }
}
