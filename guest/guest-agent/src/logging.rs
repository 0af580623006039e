//! The run's log: masked lines, written to a file that the telemetry sends, and to standard error.
//!
//! INVARIANT: only lines of our own crates are logged, since the HTTP library logs tokens. Lines are
//! masked before they are written. Writing to standard error never blocks.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::date::iso_now;
use guest_common::RunFolder;
use log::{LevelFilter, Log, Metadata, Record};
use mask::Masker;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Result;

/// The file's name in the run's folder.
pub(crate) const LOG: &str = "system.log";

/// The largest log file.
const MAX_LENGTH: u64 = 64 << 20;

/// `PIPE_BUF`: a writable pipe takes a line of this length without blocking.
const MAX_LINE: usize = 4096;

/// Starts logging for a run. Earlier lines are dropped.
pub(crate) fn start(folder: &RunFolder, masker: &Arc<Masker>) -> Result<()> {
    let file = folder.append(LOG)?;
    let logger = RunLog { file, masker: Arc::clone(masker), length: AtomicU64::new(0) };
    log::set_max_level(LevelFilter::Info);
    // In a test with several runs in one process, later runs use the first run's log.
    let _ = log::set_boxed_logger(Box::new(logger));
    Ok(())
}

struct RunLog {
    file: File,
    masker: Arc<Masker>,
    length: AtomicU64,
}

impl Log for RunLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        guest_common::may_be_logged(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let text = self.masker.mask(&text);
        let thread = std::thread::current();
        let (level, name) = (record.level(), thread.name().unwrap_or("?"));
        let text: String =
            text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let mut line = format!("{} {level:5} {name:10} {text}", iso_now());
        crate::outcome::shorten(&mut line, MAX_LINE - 1);
        line.push('\n');
        let before = self.length.fetch_add(line.len() as u64, Ordering::Relaxed);
        if before < MAX_LENGTH {
            // In one call, so that lines do not mix. A full disk must not end the run.
            let _ = (&self.file).write_all(line.as_bytes());
        }
        write_stderr(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Writes to standard error unless that would block.
pub(crate) fn write_stderr(line: &[u8]) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    if ready && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)) {
        // An error means that standard error is closed: there is no other place for this line.
        let _ = nix::unistd::write(stderr.as_fd(), line);
    }
}
