//! `runner job`: the client of a platform, of the state folder's or of one elsewhere.

mod artifact;
mod cancel;
mod checkpoint;
mod events;
mod given;
mod list;
mod logs;
mod network;
mod prune;
mod reports;
mod show;
mod submit;
mod summary;
mod wait;

use crate::error::Result;
use crate::operator::{OperatorClient, PlatformOptions};
use crate::options::Global;

const EXAMPLES: &str = "\
Examples:
  runner job submit --prompt 'fix the build' --artifact .:/home/user/workspace/app --follow
  runner job ls
  runner job events --follow 3f2a
  runner job artifact get 3f2a ./result
  runner job submit --resume 3f2a --prompt 'now add a test' --follow
  runner job ls --platform https://platform.example --token-file ci.token

JOB is a job's id or a unique prefix of it, of at least four characters. The commands need a
platform: one that serves the state folder (`runner start --local` or `runner serve`), or one
elsewhere, by --platform and a token. A token is in a file, never in an argument.";

/// Submit jobs to the platform, follow them and get their results
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    platform: PlatformOptions,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Submit(Box<submit::Arguments>),
    Ls(list::Arguments),
    Show(show::Arguments),
    Events(events::Arguments),
    Logs(logs::Arguments),
    Network(network::Arguments),
    Cancel(cancel::Arguments),
    Wait(wait::Arguments),
    Artifact(artifact::Arguments),
    Checkpoint(checkpoint::Arguments),
    Prune(prune::Arguments),
}

impl Arguments {
    /// Whether the exit code is the job's.
    pub(crate) fn passes_exit_code_on(&self) -> bool {
        match &self.command {
            Command::Submit(arguments) => arguments.follow,
            Command::Wait(_) => true,
            _ => false,
        }
    }
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let operator = &OperatorClient::open(global, &arguments.platform)?;
    match arguments.command {
        Command::Submit(arguments) => submit::run(operator, *arguments),
        Command::Ls(arguments) => list::run(operator, &arguments),
        Command::Show(arguments) => show::run(operator, &arguments),
        Command::Events(arguments) => events::run(operator, &arguments),
        Command::Logs(arguments) => logs::run(operator, &arguments),
        Command::Network(arguments) => network::run(operator, &arguments),
        Command::Cancel(arguments) => cancel::run(operator, &arguments),
        Command::Wait(arguments) => wait::run(operator, &arguments),
        Command::Artifact(arguments) => artifact::run(operator, &arguments),
        Command::Checkpoint(arguments) => checkpoint::run(operator, &arguments),
        Command::Prune(arguments) => prune::run(operator, &arguments),
    }
}
