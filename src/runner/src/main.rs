//! Runs AI-agent jobs, each in its own microVM.
//!
//! | to know | read |
//! |---|---|
//! | the command line | [`cli`]; [`options`]; one file per sub-command in [`command`] |
//! | input, output and signals of a command in a VM | [`attend`], [`input`], [`output`], [`interrupt`] |
//! | copies between host and VM | [`copy`] |
//! | how jobs of the platform are asked for | `operator`, `command/job` |
//! | background commands (`-d`) | [`detach`], [`background`] |
//! | what VMs may reach; the service that takes jobs | the crates `egress` and `service` |
//! | sandboxes for programs and agents | [`sandbox_server`]; the crates `sandbox-api` and `mcp` |
//! | virtual machines | [`vmm`]: the only file that names the kinds of monitors |

mod agent;
mod attend;
mod background;
mod cli;
mod command;
mod copy;
mod descriptor;
mod detach;
mod error;
mod follow;
mod image;
mod input;
mod interrupt;
mod logging;
#[cfg(feature = "platform")]
mod operator;
mod options;
mod output;
mod output_log;
mod progress;
mod request;
mod sandbox_server;
mod secret;
mod shortage;
mod signal;
mod ssh;
mod table;
mod terminal;
mod value;
mod vmm;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = match detach::arguments() {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error, 1),
    };
    let cli = cli::Cli::parse_from(arguments);
    logging::start(&cli);
    descriptor::raise_limit();
    let failure_code = cli.command.failure_code();
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, failure_code),
    }
}

fn fail(error: &error::Error, code: u8) -> ExitCode {
    let text = format!("runner: {}{}", error.chain(), error.remedy().unwrap_or_default());
    match error {
        _ if error.is_quiet() => {}
        _ if error.is_interruption() => output::remark_if_ready(text),
        _ => output::remark(text),
    }
    ExitCode::from(error.exit_code().unwrap_or(code))
}
