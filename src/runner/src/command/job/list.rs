//! `runner job ls`: the latest jobs.

use platform::Job;

use super::summary::{one_line, time, took_ms, word};
use crate::error::Result;
use crate::operator::{OperatorClient, print, print_json};
use crate::table;

/// The maximum length of a prompt in the list.
const PROMPT: usize = 48;

/// List jobs, the newest first
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Maximum number of jobs
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: u32,

    /// Only jobs that are older than this one, to continue a list
    #[arg(long, value_name = "JOB")]
    before: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let before = arguments.before.as_deref().map(|id| operator.job(id)).transpose()?;
    let mut before = before.map(|job| job.run_id);
    let mut jobs: Vec<Job> = Vec::new();
    // The platform limits the length of a reply.
    loop {
        let left = arguments.limit.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        let page = if left == 0 { Vec::new() } else { operator.ask(|c| c.jobs(before, left))? };
        let Some(last) = page.last() else { break };
        before = Some(last.run_id);
        jobs.extend(page);
    }
    if arguments.json {
        print_json(&jobs)?
    } else {
        print(&table(&jobs))?
    }
    Ok(0)
}

fn table(jobs: &[Job]) -> String {
    let heads = ["ID", "STATUS", "AGENT", "PROFILE", "AGE", "TOOK", "PROMPT"];
    let row = |job: &Job| {
        vec![
            job.run_id.to_string().chars().take(8).collect(),
            if job.waits.is_some() { "queued, no runner".into() } else { word(job.status).into() },
            one_line(&job.agent),
            one_line(job.profile.as_deref().unwrap_or("-")),
            table::age(u64::try_from(job.created_ms / 1000).unwrap_or(0)),
            took_ms(job).map_or_else(|| "-".to_owned(), time),
            beginning(&job.prompt),
        ]
    };
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(jobs.iter().map(row));
    table::render(&rows)
}

fn beginning(prompt: &str) -> String {
    let line = one_line(prompt.trim());
    match line.char_indices().nth(PROMPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::summary::tests::job;
    use super::*;

    #[test]
    fn a_job_is_listed_on_one_line() {
        let text = table(&[job("failed", json!({"exitCode": 3, "profile": "big"}))]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("01234567   failed   claude-code   big"), "{text}");
        assert!(lines[1].ends_with("12s    do it well"), "{text}");
    }

    #[test]
    fn a_prompt_is_truncated_between_characters_and_escaped() {
        assert_eq!(beginning(&"ä".repeat(60)), format!("{}…", "ä".repeat(PROMPT)));
        assert_eq!(beginning("\x1b[2Jx\r\ny"), "\\x1b[2Jx y");
    }
}
