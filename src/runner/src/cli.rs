//! The command line: what all sub-commands share, and which there are.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::command::{bench, cp, doctor, exec, gc, image, logs, net, ps, run, start, stop};
#[cfg(feature = "control")]
use crate::command::{job, serve};
use crate::error::Result;
use crate::value;
use crate::vmm::NetworkRange;

const EXAMPLES: &str = "\
Examples:
  runner image build default                     make the image that VMs start from
  runner run -- uname -a                         run a command in a fresh VM
  runner run -it -- bash                         a shell in a fresh VM
  runner run --agent mock -- 'make test'         run an agent in a fresh VM
  runner run -d --name web -- ./serve            leave a VM running
  runner exec -it web -- bash                    a shell in a VM that runs
  runner start --local                           take agent jobs from the queue of this host
  runner doctor                                  find out what this host lacks

Most commands need root: microVMs have cgroups, users and namespaces of their own.";

/// Runs AI-agent jobs, each in its own microVM
#[derive(Debug, Parser)]
#[command(name = "runner", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every sub-command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where images and running VMs are
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        env = "RUNNER_STATE_DIR",
        default_value = "/var/lib/sandbox-runner",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) state_dir: PathBuf,

    /// Where the host's addresses of VMs are from: each VM takes four
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "CIDR",
        env = "RUNNER_NETWORK_RANGE",
        default_value = "10.200.0.0/16"
    )]
    pub(crate) network_range: NetworkRange,

    /// Where the runners of this host agree on who has which network
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        env = "RUNNER_RUNTIME_DIR",
        default_value = "/run/sandbox-runner",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) runtime_dir: PathBuf,

    /// Firecracker's program; looked for in PATH if none is named
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE",
        env = "FIRECRACKER",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) firecracker: Option<PathBuf>,

    /// Firecracker's own jailer, which is then to confine it; if none is named, the runner does
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE",
        env = "RUNNER_FIRECRACKER_JAILER",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) firecracker_jailer: Option<PathBuf>,

    /// Whether Firecracker filters its own system calls, which a build for glibc cannot
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "RUNNER_FIRECRACKER_SECCOMP",
        value_enum,
        default_value_t = Switch::On
    )]
    pub(crate) firecracker_seccomp: Switch,

    /// Say nothing but errors and results
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,

    /// This process is the one behind `run -d`
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Arguments>),
    Exec(exec::Arguments),
    Ps(ps::Arguments),
    Cp(cp::Arguments),
    Logs(logs::Arguments),
    Stop(stop::Arguments),
    Image(image::Arguments),
    Start(start::Arguments),
    #[cfg(feature = "control")]
    Job(job::Arguments),
    #[cfg(feature = "control")]
    Serve(serve::Arguments),
    Doctor(doctor::Arguments),
    Gc(gc::Arguments),
    Net(net::Arguments),
    Bench(bench::Arguments),
}

impl Command {
    /// What this process returns when it fails itself. Where it passes on a command's exit code,
    /// that is one which commands seldom return.
    pub(crate) fn failure_code(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) => 125,
            #[cfg(feature = "control")]
            Self::Job(arguments) if arguments.passes_exit_code_on() => 125,
            _ => 1,
        }
    }

    /// What is logged unless somebody says otherwise. Nobody looks at what a service prints, so it
    /// tells of its jobs.
    pub(crate) fn logs(&self) -> &'static str {
        match self {
            // Of each job it tells itself, whatever the platform.
            Self::Start(_) => "info,control=warn",
            #[cfg(feature = "control")]
            Self::Serve(_) => "info",
            _ => "warn",
        }
    }
}

impl Cli {
    /// Does what was asked for; returns the exit code.
    pub(crate) fn run(self) -> Result<u8> {
        let global = &self.global;
        match self.command {
            Command::Run(arguments) => run::run(global, *arguments),
            Command::Exec(arguments) => exec::run(global, arguments),
            Command::Ps(arguments) => ps::run(global, &arguments),
            Command::Cp(arguments) => cp::run(global, &arguments),
            Command::Logs(arguments) => logs::run(global, &arguments),
            Command::Start(arguments) => start::run(global, &arguments),
            Command::Stop(arguments) => stop::run(global, &arguments),
            Command::Image(arguments) => image::run(global, arguments),
            Command::Net(arguments) => net::run(global, &arguments),
            Command::Bench(arguments) => bench::run(global, &arguments),
            Command::Doctor(arguments) => doctor::run(global, &arguments),
            Command::Gc(arguments) => gc::run(global, &arguments),
            #[cfg(feature = "control")]
            Command::Job(arguments) => job::run(global, arguments),
            #[cfg(feature = "control")]
            Command::Serve(arguments) => serve::run(global, arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_state_folder_does_not_depend_on_where_a_runner_goes() {
        let cli = Cli::try_parse_from(["runner", "--state-dir", "state", "ps"]).unwrap();
        assert_eq!(cli.global.state_dir, std::env::current_dir().unwrap().join("state"));
    }

    #[test]
    fn everything_behind_the_command_belongs_to_it() {
        let cli = Cli::try_parse_from(["runner", "run", "ls", "-l", "--name"]).unwrap();
        let Command::Run(arguments) = cli.command else { panic!("not run") };
        assert_eq!(arguments.command, ["ls", "-l", "--name"]);
    }
}
