//! `runner sandbox`: sandboxes for programs.

mod serve;

use crate::error::Result;
use crate::options::Global;

/// Serve sandboxes to programs
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Arguments),
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(global, arguments),
    }
}
