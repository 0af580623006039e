//! Logs to standard error.
//!
//! INVARIANT: only lines of our own crates are logged, whatever `RUST_LOG` says: the HTTP library logs
//! URLs.

use std::io::Write as _;
use std::thread;

use env_logger::{Builder, Env, Logger};
use log::{Log, Metadata, Record};

/// Starts logging, at level `info` unless `RUST_LOG` says otherwise.
pub(crate) fn start() {
    let logger = Builder::from_env(Env::default().default_filter_or("info"))
        .format(|line, record| {
            let thread = thread::current();
            let (level, name) = (record.level(), thread.name().unwrap_or("?"));
            writeln!(line, "guest-download {level:5} {name:8} {}", record.args())
        })
        .build();
    log::set_max_level(logger.filter());
    // Setting the first logger cannot fail.
    let _ = log::set_boxed_logger(Box::new(Ours(logger)));
}

struct Ours(Logger);

impl Log for Ours {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        guest_common::may_be_logged(metadata.target()) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}
