//! `runner job network`: a job's connections and requests.

use intercept::NetworkLogEntry;
use platform::Telemetry;
use serde_json::Value;

use super::reports::Reports;
use super::summary::one_line;
use crate::error::Result;
use crate::operator::{OperatorClient, json_line};

/// Show a job's connections and requests, each with its verdict
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    reports: Reports,

    /// Print JSON, one entry per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let is_json = arguments.json;
    let head = if is_json { String::new() } else { head() };
    arguments.reports.print(operator, &head, |report| text(report, is_json))
}

fn head() -> String {
    let heads = ["TIME", "ACTION", "METHOD", "STATUS", "MS", "SENT", "RECEIVED", "WHAT, AND WHY"];
    row(heads.map(str::to_owned))
}

/// A line for each network log entry of a report.
fn text(report: &Telemetry, is_json: bool) -> Result<String> {
    let logs = report.content.get("networkLogs").and_then(Value::as_array);
    let lines = logs.into_iter().flatten().map(|value| {
        match (is_json, serde_json::from_value::<NetworkLogEntry>(value.clone())) {
            (false, Ok(entry)) => Ok(line(&entry)),
            _ => json_line(value),
        }
    });
    lines.collect()
}

fn line(entry: &NetworkLogEntry) -> String {
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

/// A line of the table. Rows are printed as they arrive, so columns have fixed widths.
fn row(cells: [String; 8]) -> String {
    let [time, action, method, status, ms, sent, received, what] = cells;
    format!("{time:12} {action:6} {method:7} {status:>6} {ms:>6} {sent:>9} {received:>9}  {what}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_one_line_with_escaped_control_characters() {
        let entry: NetworkLogEntry = serde_json::from_value(json!({
            "timestamp": "2026-05-01T10:11:12.345Z", "type": "http", "action": "DENY",
            "host": "x", "port": 443, "method": "GET", "url": "https://x/\u{1b}[2J",
            "status": 403, "latency_ms": 7, "error": "x is unknown",
        }))
        .unwrap();
        assert_eq!(
            line(&entry),
            "10:11:12.345 DENY   GET        403      7         -         -  https://x/\\x1b[2J  x is unknown\n"
        );
    }
}
