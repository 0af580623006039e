//! Logs to standard error: lines for people, for systemd's journal, or JSON for programs. Each has the name of its thread,
//! which names the VM.
//!
//! INVARIANT: prompts, values of environment variables and tokens are not logged. The HTTP libraries
//! are silenced, since they log URLs and whole requests.
//! INVARIANT: control characters are escaped, so text of guests cannot control a terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::thread;

use env_logger::{Builder, Env};
use log::{Level, LevelFilter, Record};
use serde::Serialize;

use crate::cli::Cli;
use crate::options::LogFormat;
use crate::terminal::harmless;

/// Crates whose log messages may contain secrets.
const SILENT: [&str; 2] = ["ureq", "rustls"];

/// A line of `--log-format json`.
#[derive(Serialize)]
struct Entry<'a> {
    time: String,
    level: &'a str,
    thread: &'a str,
    target: &'a str,
    message: String,
}

/// Starts logging, with the sub-command's filter unless `RUST_LOG` or `--quiet` overrides it.
pub(crate) fn start(cli: &Cli) {
    let mut builder = Builder::from_env(Env::default().default_filter_or(cli.command.log_filter()));
    if cli.global.quiet {
        builder.filter_level(LevelFilter::Error);
    }
    let write: fn(&str, &mut dyn Write, &str, &Record<'_>) -> io::Result<()> =
        match cli.global.log_format {
            LogFormat::Json => write_json,
            LogFormat::Text if is_journal() => write_journal,
            LogFormat::Text => write_text,
        };
    builder
        .format(move |line, record| {
            if SILENT.iter().any(|name| record.target().starts_with(name)) {
                return Ok(());
            }
            let time = line.timestamp_millis().to_string();
            write(&time, line, thread::current().name().unwrap_or("?"), record)
        })
        .init();
}

fn write_text(
    time: &str,
    line: &mut dyn Write,
    thread: &str,
    record: &Record<'_>,
) -> io::Result<()> {
    // Further lines are indented, so that text of a guest cannot imitate a log line.
    let text = harmless(&record.args().to_string()).replace('\n', "\n    ");
    writeln!(line, "{time} {:5} {thread:11} {text}", record.level())
}

/// With the priority of sd-daemon(3) before each line. The journal has the time.
fn write_journal(
    _time: &str,
    line: &mut dyn Write,
    thread: &str,
    record: &Record<'_>,
) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let text = harmless(&record.args().to_string()).replace('\n', &format!("\n<{priority}>    "));
    writeln!(line, "<{priority}>{thread:11} {text}")
}

fn write_json(
    time: &str,
    line: &mut dyn Write,
    thread: &str,
    record: &Record<'_>,
) -> io::Result<()> {
    let entry = Entry {
        time: time.to_owned(),
        level: &record.level().as_str().to_ascii_lowercase(),
        thread,
        target: record.target(),
        message: harmless(&record.args().to_string()),
    };
    serde_json::to_writer(&mut *line, &entry)?;
    line.write_all(b"\n")
}

/// Whether standard error is the journal: systemd names its socket by device and inode.
fn is_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some_and(|name| is_stream(&name, io::stderr()))
}

fn is_stream(name: &OsStr, stream: impl AsFd) -> bool {
    let file = stream.as_fd().try_clone_to_owned().map(File::from);
    let metadata = file.and_then(|file| file.metadata());
    metadata.is_ok_and(|found| name == format!("{}:{}", found.dev(), found.ino()).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Write = fn(&str, &mut dyn io::Write, &str, &Record<'_>) -> io::Result<()>;

    fn written(write: Write, level: Level, message: &str) -> String {
        let mut line = Vec::new();
        let arguments = format_args!("{message}");
        let record = Record::builder().level(level).target("service::pool").args(arguments).build();
        write("2026-01-02T03:04:05.678Z", &mut line, "vm-1", &record).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_json_line_has_the_parts_of_a_message_and_is_one_line() {
        let line = written(write_json, Level::Warn, "a \"b\"\nc \u{1b}[1m");

        assert_eq!(line.matches('\n').count(), 1);
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "time": "2026-01-02T03:04:05.678Z", "level": "warn", "thread": "vm-1",
            "target": "service::pool", "message": "a \"b\"\nc \\x1b[1m",
        });
        assert_eq!(entry, expected);
    }

    #[test]
    fn each_line_for_the_journal_has_its_priority_and_no_time() {
        let lines = written(write_journal, Level::Error, "one\ntwo");

        assert_eq!(lines, "<3>vm-1        one\n<3>    two\n");
        assert!(written(write_journal, Level::Trace, "x").starts_with("<7>"));
    }

    #[test]
    fn a_line_for_people_cannot_be_imitated_by_text() {
        let lines = written(write_text, Level::Info, "one\n2026 INFO");

        assert_eq!(lines, "2026-01-02T03:04:05.678Z INFO  vm-1        one\n    2026 INFO\n");
    }

    #[test]
    fn the_journal_is_known_by_the_device_and_inode_of_the_stream() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        let name = format!("{}:{}", metadata.dev(), metadata.ino());

        assert!(is_stream(OsStr::new(&name), &file));
        assert!(!is_stream(OsStr::new("1:2"), &file) && !is_stream(OsStr::new(""), &file));
    }
}
