//! Logs: on standard error, with the name of the thread, so that each line carries its VM.
//!
//! INVARIANT: nothing logs prompts, values of environment variables, or tokens. So the HTTP library
//! says nothing at all: it logs URLs and whole requests.
//! INVARIANT: what others have chosen is escaped: no control character reaches a terminal.

use std::io::Write;
use std::thread;

use env_logger::{Builder, Env};
use log::LevelFilter;

use crate::cli::Cli;
use crate::terminal::harmless;

/// Where what is logged may be a secret.
const SILENT: [&str; 2] = ["ureq", "rustls"];

/// Starts logging: what the command is said to log, unless `RUST_LOG` or a flag says otherwise.
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
            // A guest's text begins no line of its own.
            let text = harmless(&record.args().to_string()).replace('\n', "\n    ");
            writeln!(line, "{time} {level:5} {name:11} {text}")
        })
        .init();
}
