//! `runner fleet drain` and `undrain`: whether a runner gets jobs.

use crate::error::Result;
use crate::operator::OperatorClient;
use crate::output;

/// Give a runner no more jobs, until `undrain`, also after restarts
///
/// Jobs that run there end there. The next job of a session whose VM is parked there goes to another
/// runner, which resumes it from its checkpoint.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The runner
    #[arg(value_name = "RUNNER")]
    runner: String,
}

/// Give a drained runner jobs again
#[derive(Debug, clap::Args)]
pub(super) struct UndrainArguments {
    /// The runner
    #[arg(value_name = "RUNNER")]
    runner: String,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let runner = operator.ask(|client| client.drain(&arguments.runner))?;
    if runner.running_count > 0 && !operator.global.quiet {
        output::remark(format_args!("runner: {} jobs still run there", runner.running_count));
    }
    Ok(0)
}

pub(super) fn undrain(operator: &OperatorClient<'_>, arguments: &UndrainArguments) -> Result<u8> {
    operator.ask(|client| client.undrain(&arguments.runner))?;
    Ok(0)
}
