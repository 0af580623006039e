//! `runner job prune`: makes room.

use std::time::Duration;

use platform::Pruned;

use crate::error::{Error, Result};
use crate::operator::{self, OperatorClient, print_json};
use crate::options::Global;
use crate::output;

/// Remove jobs that ended a while ago, with their events, and content that no job needs any more
///
/// The platform does this by itself for jobs of more than 30 days. It works also where nobody
/// serves.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How long ago a job must have ended, like 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse, default_value = "30d")]
    older_than: Duration,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let keep = arguments.older_than;
    let operator = OperatorClient::of(global);
    let pruned = match operator.ask(|client| client.prune(keep)) {
        Err(Error::Operator(operator::Error::NotServed { .. })) => alone(global, keep)?,
        other => other?,
    };
    if arguments.json {
        print_json(&pruned)?;
    } else if !global.quiet {
        let Pruned { jobs, versions, blobs, bytes } = pruned;
        output::remark(format_args!(
            "removed {jobs} jobs, {versions} versions of artifacts and {blobs} files of {} MiB",
            bytes >> 20
        ));
    }
    Ok(0)
}

/// Where nobody serves; where nobody ever did, nothing is made.
fn alone(global: &Global, keep: Duration) -> Result<Pruned> {
    match global.state_dir.join("control").exists() {
        true => Ok(platform::prune(&global.state_dir, keep).map_err(operator::Error::from)?),
        false => Ok(Pruned::default()),
    }
}
