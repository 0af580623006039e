//! The run's log: each line masked, into the run's file, which goes to the platform, and to standard
//! error as long as that takes it.
//!
//! INVARIANT: only our own lines, since the HTTP library would log tokens; nothing before it is
//! masked; and nobody waits for a reader of standard error.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_common::{RunFolder, iso_now};
use log::{LevelFilter, Log, Metadata, Record};
use mask::Masker;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Result;

/// The file's name in the run's folder.
pub(crate) const LOG: &str = "system.log";

/// The longest log.
const LONGEST: u64 = 64 << 20;

/// The longest line; and as much as a pipe that takes anything takes at once.
const LONGEST_LINE: usize = 4096;

/// Starts logging for a run. Lines before this are not kept.
pub(crate) fn start(folder: &RunFolder, masker: &Arc<Masker>) -> Result<()> {
    let file = folder.append(LOG)?;
    let logger = RunLog { file, masker: Arc::clone(masker), length: AtomicU64::new(0) };
    log::set_max_level(LevelFilter::Info);
    // A second run in one process, in a test, keeps the first one's log.
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
        crate::outcome::shorten(&mut line, LONGEST_LINE - 1);
        line.push('\n');
        let before = self.length.fetch_add(line.len() as u64, Ordering::Relaxed);
        if before < LONGEST {
            // In one call, so that lines do not mix. A full disk ends no run.
            let _ = (&self.file).write_all(line.as_bytes());
        }
        write_if_read(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Writes to standard error unless that would wait for its reader.
pub(crate) fn write_if_read(line: &[u8]) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    if ready && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)) {
        // Whoever has closed it wants no log.
        let _ = nix::unistd::write(stderr.as_fd(), line);
    }
}
