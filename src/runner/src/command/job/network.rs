//! `runner job network`: what a job sent, and what became of it.

use std::io::Write;
use std::time::Duration;

use control::Telemetry;
use intercept::Entry;
use serde_json::Value;

use super::{one_line, tell_waiting};
use crate::cli::Global;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::platform::{Patience, Platform, json_line};

/// Show what a job sent over its network, and what became of it
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on until the job has ended
    #[arg(short, long)]
    follow: bool,

    /// Print JSON, one entry a line, for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    patience: Patience,

    /// The job's id, or the beginning of it
    job: String,
}

/// Does it.
pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let platform = Platform::of(global);
    let job = platform.job(&arguments.job)?;
    let (run, is_json) = (job.run_id, arguments.json);
    if arguments.follow {
        tell_waiting(job.waits.as_deref(), global);
        platform.attend(run, &arguments.patience, |watch, output| {
            head(is_json, output.stdout())?;
            let mut reports = watch.ask(|client| Ok(client.follow_telemetry(run, 0)))?;
            while let Some(report) = watch.ask(|_| reports.next().transpose())? {
                tell(&report, is_json, output.stdout())?;
            }
            Ok(())
        })?;
        return Ok(0);
    }
    let (mut output, mut after) = (Output::open()?, 0);
    head(is_json, output.stdout())?;
    loop {
        let page = platform.ask(|client| client.telemetry(run, after, Duration::ZERO))?;
        for report in &page.items {
            tell(report, is_json, output.stdout())?;
        }
        if page.is_last || page.items.is_empty() {
            return Ok(0);
        }
        after = page.next;
    }
}

fn head(is_json: bool, out: &mut impl Write) -> Result<()> {
    if is_json {
        return Ok(());
    }
    let heads = ["TIME", "ACTION", "METHOD", "STATUS", "MS", "SENT", "RECEIVED", "WHAT, AND WHY"];
    write(&row(heads.map(str::to_owned)), out)
}

fn tell(report: &Telemetry, is_json: bool, out: &mut impl Write) -> Result<()> {
    let logs = report.content.get("networkLogs").and_then(Value::as_array);
    for value in logs.into_iter().flatten() {
        let text = match (is_json, serde_json::from_value::<Entry>(value.clone())) {
            (false, Ok(entry)) => line(&entry),
            _ => json_line(value)?,
        };
        write(&text, out)?;
    }
    Ok(())
}

fn write(text: &str, out: &mut impl Write) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|source| Error::Output { source })
}

fn line(entry: &Entry) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let what = entry.url.clone().unwrap_or_else(|| format!("{}:{}", entry.host, entry.port));
    let why = entry.error.as_deref().or(entry.firewall_rule_match.as_deref());
    let time = entry.timestamp.get(11..23).unwrap_or(&entry.timestamp);
    row([
        one_line(time),
        one_line(&entry.action),
        one_line(entry.method.as_deref().unwrap_or(&entry.kind)),
        number(entry.status.map(u64::from)),
        number(entry.latency_ms),
        number(entry.request_size),
        number(entry.response_size),
        one_line(&format!("{what}{}", why.map(|why| format!("  {why}")).unwrap_or_default())),
    ])
}

/// As it comes: what follows is not known yet, so columns are as wide as they usually have to be.
fn row(cells: [String; 8]) -> String {
    let [time, action, method, status, ms, sent, received, what] = cells;
    format!("{time:12} {action:6} {method:7} {status:>6} {ms:>6} {sent:>9} {received:>9}  {what}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_see_an_entry_in_a_line_that_cannot_move_the_cursor() {
        let entry: Entry = serde_json::from_value(json!({
            "timestamp": "2026-05-01T10:11:12.345Z", "type": "http", "action": "DENY",
            "host": "x", "port": 443, "method": "GET", "url": "https://x/\u{1b}[2J",
            "status": 403, "latency_ms": 7, "error": "x is unknown",
        }))
        .unwrap();
        assert_eq!(
            line(&entry),
            "10:11:12.345 DENY   GET        403      7         -         -  https://x/ [2J  x is unknown\n"
        );
    }
}
