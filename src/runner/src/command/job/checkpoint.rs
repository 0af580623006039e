//! `runner job checkpoint`: shows a job's latest checkpoint.

use platform::{Checkpoint, Mount};

use super::summary::one_line;
use crate::error::Result;
use crate::operator::{OperatorClient, print, print_json};
use crate::table;

/// Show a job's latest checkpoint: its session and its artifacts
///
/// The checkpoint of a job that failed, timed out or was cancelled is partial: parts of it may be
/// missing. `runner job submit --resume JOB` resumes from a checkpoint, and `runner job artifact get`
/// copies its artifacts.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Id of the job, or a unique prefix
    job: String,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let run = operator.job(&arguments.job)?.run_id;
    let checkpoint = operator.ask(|client| client.checkpoint(run))?;
    if arguments.json {
        print_json(&checkpoint)?
    } else {
        print(&text(&checkpoint))?
    }
    Ok(0)
}

fn text(checkpoint: &Checkpoint) -> String {
    let row = |name: &str, value: &str| vec![name.to_owned(), one_line(value)];
    let mut rows = vec![
        row("checkpoint", &checkpoint.checkpoint_id),
        row("job", &checkpoint.run_id.to_string()),
        row("attempt", &checkpoint.attempt.to_string()),
        row("age", &table::age(u64::try_from(checkpoint.created_ms / 1000).unwrap_or(0))),
        row("agent", &checkpoint.agent),
    ];
    if checkpoint.partial {
        rows.push(row("partial", "yes: the job did not succeed, and parts may be missing"));
    }
    rows.push(row("session", checkpoint.session_id.as_deref().unwrap_or("none")));
    let history = checkpoint.history_size.map(|size| row("history", &format!("{size} bytes")));
    rows.extend(history);
    let artifact = |mount: &Mount| {
        let version: String = mount.version_id.chars().take(12).collect();
        row("artifact", &format!("{} at {}, version {version}", mount.name, mount.mount_path))
    };
    rows.extend(checkpoint.artifacts.iter().map(artifact));
    table::render(&rows)
}
