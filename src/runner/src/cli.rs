//! The command line: the list of sub-commands, and the function that each one calls.

use clap::{Parser, Subcommand};

use crate::command::{
    bench, cp, doctor, exec, gc, image, key, logs, mcp, net, ps, run, sandbox, ssh_config,
    ssh_host_key, ssh_proxy, start, stop, wait,
};
#[cfg(feature = "platform")]
use crate::command::{fleet, job, serve, token};
use crate::error::Result;
use crate::options::Global;

const EXAMPLES: &str = "\
Examples:
  runner image build default                     build the image that VMs start from
  runner run -- uname -a                         run a command in a fresh VM
  runner run -it -- bash                         a shell in a fresh VM
  runner run --agent mock -- 'make test'         run an agent in a fresh VM
  runner run -d --name web -- ./serve            leave a VM running
  runner exec -it web -- bash                    a shell in a running VM
  runner start --local                           take agent jobs from the queue of this host
  runner sandbox serve                           serve sandboxes to programs with the E2B SDKs
  runner mcp                                     serve sandboxes to an agent that starts this
  runner doctor                                  check whether this host can run VMs

Most commands need root, for cgroups, users and namespaces.";

/// Runs AI-agent jobs, each in its own microVM
#[derive(Debug, Parser)]
#[command(name = "runner", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Arguments>),
    Exec(exec::Arguments),
    Ps(ps::Arguments),
    Cp(cp::Arguments),
    Logs(logs::Arguments),
    Wait(wait::Arguments),
    Stop(stop::Arguments),
    SshConfig(ssh_config::Arguments),
    #[command(hide = true)]
    SshProxy(ssh_proxy::Arguments),
    #[command(hide = true)]
    SshHostKey(ssh_host_key::Arguments),
    Image(image::Arguments),
    Start(start::Arguments),
    #[cfg(feature = "platform")]
    Job(job::Arguments),
    #[cfg(feature = "platform")]
    Fleet(fleet::Arguments),
    #[cfg(feature = "platform")]
    Serve(serve::Arguments),
    #[cfg(feature = "platform")]
    Token(token::Arguments),
    Sandbox(sandbox::Arguments),
    Mcp(mcp::Arguments),
    Doctor(doctor::Arguments),
    Key(key::Arguments),
    Gc(gc::Arguments),
    Net(net::Arguments),
    Bench(bench::Arguments),
}

impl Command {
    /// The exit code of a failure of the runner itself: 125 for sub-commands that return another command's exit code, else 1.
    pub(crate) fn failure_code(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Wait(_) => 125,
            #[cfg(feature = "platform")]
            Self::Job(arguments) if arguments.passes_exit_code_on() => 125,
            _ => 1,
        }
    }

    /// The default log filter. Services run unattended, so they log their jobs.
    pub(crate) fn log_filter(&self) -> &'static str {
        match self {
            // The service itself logs each job; the embedded platform would repeat that.
            Self::Start(_) => "info,platform=warn",
            Self::Sandbox(_) => "info",
            #[cfg(feature = "platform")]
            Self::Serve(_) => "info",
            _ => "warn",
        }
    }
}

impl Cli {
    /// Runs the sub-command; returns the exit code.
    pub(crate) fn run(self) -> Result<u8> {
        let global = &self.global;
        match self.command {
            Command::Run(arguments) => run::run(global, *arguments),
            Command::Exec(arguments) => exec::run(global, arguments),
            Command::Ps(arguments) => ps::run(global, &arguments),
            Command::Cp(arguments) => cp::run(global, &arguments),
            Command::Logs(arguments) => logs::run(global, &arguments),
            Command::Wait(arguments) => wait::run(global, &arguments),
            Command::Start(arguments) => start::run(global, &arguments),
            Command::Stop(arguments) => stop::run(global, &arguments),
            Command::SshConfig(arguments) => ssh_config::run(global, &arguments),
            Command::SshProxy(arguments) => ssh_proxy::run(global, &arguments),
            Command::SshHostKey(arguments) => ssh_host_key::run(global, &arguments),
            Command::Image(arguments) => image::run(global, arguments),
            Command::Net(arguments) => net::run(global, &arguments),
            Command::Bench(arguments) => bench::run(global, &arguments),
            Command::Sandbox(arguments) => sandbox::run(global, arguments),
            Command::Mcp(arguments) => mcp::run(global, &arguments),
            Command::Doctor(arguments) => doctor::run(global, &arguments),
            Command::Key(arguments) => key::run(global, arguments),
            Command::Gc(arguments) => gc::run(global, &arguments),
            #[cfg(feature = "platform")]
            Command::Job(arguments) => job::run(global, arguments),
            #[cfg(feature = "platform")]
            Command::Fleet(arguments) => fleet::run(global, arguments),
            #[cfg(feature = "platform")]
            Command::Serve(arguments) => serve::run(global, arguments),
            #[cfg(feature = "platform")]
            Command::Token(arguments) => token::run(global, arguments),
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
    fn a_relative_state_folder_becomes_absolute() {
        let cli = Cli::try_parse_from(["runner", "--state-dir", "state", "ps"]).unwrap();
        assert_eq!(cli.global.state_dir, std::env::current_dir().unwrap().join("state"));
    }

    #[test]
    fn flags_after_the_command_are_its_arguments() {
        let cli = Cli::try_parse_from(["runner", "run", "ls", "-l", "--name"]).unwrap();
        let Command::Run(arguments) = cli.command else { panic!("not run") };
        assert_eq!(arguments.command, ["ls", "-l", "--name"]);
    }
}
