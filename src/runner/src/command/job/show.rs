//! `runner job show`: shows a job's record.

use platform::Job;

use super::summary::{describe, one_line, time, took_ms};
use crate::error::Result;
use crate::operator::{OperatorClient, print, print_json};
use crate::table;
use crate::terminal::harmless;

/// Show a job: its state, error, warnings, checkpoint and prompt
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Id of the job, or a unique prefix
    job: String,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let job = operator.job(&arguments.job)?;
    if arguments.json {
        print_json(&job)?
    } else {
        print(&text(&job))?
    }
    Ok(0)
}

fn text(job: &Job) -> String {
    let mut rows = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![name.to_owned(), one_line(&value)]));
    };
    let missing = job.missing_events;
    let events = match missing {
        0 => job.events.to_string(),
        _ => format!("{}, and {missing} are missing", job.events),
    };
    add("id", Some(job.run_id.to_string()));
    add("status", Some(describe(job)));
    add("waits", job.waits.clone());
    add("error", job.error.clone());
    job.warnings.iter().for_each(|warning| add("warning", Some(warning.clone())));
    add("agent", Some(job.agent.clone()));
    add("profile", job.profile.clone());
    add("group", job.group.clone());
    add("age", Some(table::age(u64::try_from(job.created_ms / 1000).unwrap_or(0))));
    add("submitted by", job.submitted_by.clone());
    add("cancelled by", job.cancelled_by.clone());
    add("took", took_ms(job).map(time));
    add("attempt", Some(job.attempt).filter(|attempt| *attempt > 0).map(|n| n.to_string()));
    add("session", job.session_id.clone());
    add("events", Some(events));
    let partial = if job.checkpoint_partial { ", partial" } else { "" };
    add("checkpoint", job.checkpoint_id.as_ref().map(|id| format!("{id}{partial}")));
    add("resumes", job.resumed_checkpoint.clone().map(|id| format!("checkpoint {id}")));
    let prompt: String = harmless(&job.prompt).lines().map(|line| format!("  {line}\n")).collect();
    format!("{}prompt\n{prompt}", table::render(&rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::summary::tests::job;
    use super::*;

    #[test]
    fn absent_values_are_not_shown() {
        let text = text(&job("failed", json!({"exitCode": 3, "error": "it\nbroke"})));
        assert!(text.contains("status    failed, exit code 3\nerror     it broke\n"), "{text}");
        assert!(text.ends_with("prompt\n  do it\n  well\n"), "{text}");
        assert!(!text.contains("checkpoint"), "{text}");
    }

    #[test]
    fn a_job_shows_the_tokens_of_who_submitted_and_cancelled_it() {
        let text = text(&job("cancelled", json!({"submittedBy": "ci", "cancelledBy": "op"})));
        assert!(text.contains("submitted by   ci\ncancelled by   op\n"), "{text}");
    }

    #[test]
    fn a_failed_job_shows_its_partial_checkpoint_and_its_warnings() {
        let warning = "artifact w: a/b was not saved: Permission denied";
        let more = json!({"exitCode": 3, "checkpointId": "c-1", "checkpointPartial": true,
            "warnings": [warning]});
        let text = text(&job("failed", more));
        assert!(text.contains(&format!("warning      {warning}\n")), "{text}");
        assert!(text.contains("checkpoint   c-1, partial\n"), "{text}");
    }
}
