//! Logs to standard error. Each line has the name of its thread, which names the VM.
//!
//! INVARIANT: prompts, values of environment variables and tokens are not logged. The HTTP libraries
//! are silenced, since they log URLs and whole requests.
//! INVARIANT: control characters are escaped, so text of guests cannot control a terminal.

use std::io::Write;
use std::thread;

use env_logger::{Builder, Env};
use log::LevelFilter;

use crate::cli::Cli;
use crate::terminal::harmless;

/// Crates whose log messages may contain secrets.
const SILENT: [&str; 2] = ["ureq", "rustls"];

/// Starts logging, with the sub-command's filter unless `RUST_LOG` or `--quiet` overrides it.
pub(crate) fn start(cli: &Cli) {
    let mut builder = Builder::from_env(Env::default().default_filter_or(cli.command.log_filter()));
    if cli.global.quiet {
        builder.filter_level(LevelFilter::Error);
    }
    builder
        .format(|line, record| {
            if SILENT.iter().any(|name| record.target().starts_with(name)) {
                return Ok(());
            }
            let (time, level) = (line.timestamp_millis(), record.level());
            let current = thread::current();
            let name = current.name().unwrap_or("?");
            // Further lines are indented, so that text of a guest cannot imitate a log line.
            let text = harmless(&record.args().to_string()).replace('\n', "\n    ");
            writeln!(line, "{time} {level:5} {name:11} {text}")
        })
        .init();
}
