//! `runner job logs`: the reports of a job's guest and runner.

use platform::Telemetry;
use serde_json::Value;

use super::reports::Reports;
use super::summary::one_line;
use crate::error::Result;
use crate::operator::{OperatorClient, json_line};
use crate::terminal::harmless;

/// Show the log of a job's guest, the operations of its runner and guest, and its connections
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    reports: Reports,

    /// Print JSON, one report per line, with metrics
    #[arg(long)]
    json: bool,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let is_json = arguments.json;
    let text = |report: &_| if is_json { json_line(report) } else { Ok(text(report)) };
    arguments.reports.print(operator, "", text)
}

/// A report for people: its log as it is, and a line for each operation and connection.
fn text(report: &Telemetry) -> String {
    let mut text = harmless(report.content.get("systemLog").and_then(Value::as_str).unwrap_or(""));
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let list = |name: &str| report.content.get(name).and_then(Value::as_array);
    for entry in list("sandboxOperations").into_iter().flatten() {
        text.push_str(&one_line(&operation(entry)));
        text.push('\n');
    }
    for entry in list("networkLogs").into_iter().flatten() {
        text.push_str(&one_line(&connection(entry)));
        text.push('\n');
    }
    text
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn operation(entry: &Value) -> String {
    let error = entry["error"].as_str().map_or_else(String::new, |error| format!(": {error}"));
    let failed = if entry["success"] == false { " failed" } else { "" };
    let took = entry["duration_ms"].as_f64().unwrap_or_default();
    format!("{} {} {took} ms{failed}{error}", word(&entry["ts"]), word(&entry["action_type"]))
}

fn connection(entry: &Value) -> String {
    let mut line = format!("{} {}", word(&entry["timestamp"]), word(&entry["action"]));
    if let Some(method) = entry["method"].as_str() {
        line.push_str(&format!(" {method}"));
    }
    match entry["url"].as_str() {
        Some(url) => line.push_str(&format!(" {url}")),
        None => line.push_str(&format!(" {}:{}", word(&entry["host"]), entry["port"])),
    }
    if let Some(status) = entry["status"].as_u64() {
        line.push_str(&format!(" {status}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_of_a_report_is_its_log_and_a_line_per_operation() {
        let report: Telemetry = serde_json::from_value(json!({
            "position": 1, "attempt": 1, "receivedMs": 5, "content": {
                "systemLog": "boot\x1b[2J",
                "metrics": [{"cpu": 1}],
                "sandboxOperations": [
                    {"ts": "T1", "action_type": "vm_create", "duration_ms": 12, "success": true},
                    {"ts": "T2", "action_type": "cleanup", "duration_ms": 1, "success": false,
                        "error": "busy\n"}],
                "networkLogs": [
                    {"timestamp": "T3", "action": "DENY", "host": "10.0.0.1", "port": 22},
                    {"timestamp": "T4", "action": "ALLOW", "host": "x", "port": 443,
                        "method": "GET", "url": "https://x/", "status": 200}],
            },
        }))
        .unwrap();

        let expected = "boot\\x1b[2J\nT1 vm_create 12 ms\nT2 cleanup 1 ms failed: busy \n\
                        T3 DENY 10.0.0.1:22\nT4 ALLOW GET https://x/ 200\n";
        assert_eq!(text(&report), expected);
    }
}
