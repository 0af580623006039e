//! `runner job prune`: removes old jobs.

use std::time::Duration;

use platform::Pruned;

use crate::error::{Error, Result};
use crate::operator::{self, OperatorClient, print_json};
use crate::options::Global;
use crate::output;

/// Remove old jobs, their events, and content that no other job uses
///
/// A platform removes jobs 30 days after their end by itself. This command also works while no
/// platform serves the state folder.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Minimum time since a job's end, like 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse, default_value = "30d")]
    older_than: Duration,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let keep = arguments.older_than;
    let global = operator.global;
    let pruned = match operator.ask(|client| client.prune(keep)) {
        Err(Error::Operator(operator::Error::NotServed { .. })) => prune_unserved(global, keep)?,
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

/// Prunes a state folder without a platform. Creates nothing if it never had one.
fn prune_unserved(global: &Global, keep: Duration) -> Result<Pruned> {
    if !global.state_dir.join("control").exists() {
        return Ok(Pruned::default());
    }
    Ok(platform::prune(platform::Config::new(&global.state_dir), keep)
        .map_err(operator::Error::from)?)
}
