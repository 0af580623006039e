//! `runner fleet`: the runners that take jobs of a platform.

mod clear;
mod drain;
mod list;

use crate::error::Result;
use crate::operator::{OperatorClient, PlatformOptions};
use crate::options::Global;

const EXAMPLES: &str = "\
Examples:
  runner fleet ls
  runner fleet drain host-3        before maintenance: jobs that run there end there
  runner fleet undrain host-3
  runner fleet clear host-3        it is repaired: jobs again at once

RUNNER is a runner's name, its id, or a prefix of the id of at least four characters.";

/// List the runners of the platform, drain them, and clear unhealthy ones
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
    Ls(list::Arguments),
    Drain(drain::Arguments),
    Undrain(drain::UndrainArguments),
    Clear(clear::Arguments),
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let operator = &OperatorClient::open(global, &arguments.platform)?;
    match arguments.command {
        Command::Ls(arguments) => list::run(operator, &arguments),
        Command::Drain(arguments) => drain::run(operator, &arguments),
        Command::Undrain(arguments) => drain::undrain(operator, &arguments),
        Command::Clear(arguments) => clear::run(operator, &arguments),
    }
}
