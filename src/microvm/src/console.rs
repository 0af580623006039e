//! Captures a pipe, as the guest's console, in a bounded file, and its tail in memory for errors.
//!
//! INVARIANT: a guest that floods its console costs [`FILE_LIMIT`] bytes of disk and
//! [`TAIL_LIMIT`] bytes of memory.
//! INVARIANT: the pipe is drained even if the file cannot be written, so a full host disk does not stop
//! the guest.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use vsock_proto::BOOT_FAILURE_PREFIX;

use crate::Result;
use crate::error::file;

const FILE_LIMIT: u64 = 4 << 20;
const TAIL_LIMIT: usize = 8 << 10;
/// What the kernel prints before the reason of a panic.
const PANIC: &str = "Kernel panic - not syncing: ";
/// Panics for want of memory: the OOM killer is off, or has nothing left to kill.
const OUT_OF_MEMORY: [&str; 2] = ["Out of memory", "System is deadlocked on memory"];
const FULL: &[u8] = b"\n[runner: the log is full; what follows is not kept]\n";

/// Captures the output of a pipe.
#[derive(Debug)]
pub(crate) struct Capture {
    pipe: File,
    log: File,
    room: u64,
    tail: VecDeque<u8>,
}

impl Capture {
    /// Captures `pipe`, which becomes non-blocking, in a new file at `path`.
    pub(crate) fn new(pipe: OwnedFd, path: &Path) -> Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| file("set up the pipe of", path)(errno.into()))?;
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(file("create", path))?;
        Ok(Self { pipe: pipe.into(), log, room: FILE_LIMIT, tail: VecDeque::new() })
    }

    /// Readable when there is output, or at the end.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Reads what is available. `false` at the end of the pipe.
    pub(crate) fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.keep(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_LIMIT);
        self.tail.drain(..surplus);
        let fits = bytes.len().min(usize::try_from(self.room).unwrap_or(usize::MAX));
        if fits == 0 {
            return;
        }
        self.room -= fits as u64;
        let note = if self.room == 0 { FULL } else { &[] };
        let kept = self.log.write_all(&bytes[..fits]).and_then(|()| self.log.write_all(note));
        if let Err(error) = kept {
            self.room = 0;
            log::warn!("a log of the vm ends here; error={error}");
        }
    }

    /// The reason that guest-init gave for not booting.
    pub(crate) fn boot_failure(&self) -> Option<String> {
        let text = self.text();
        let (_, after) = text.rsplit_once(BOOT_FAILURE_PREFIX)?;
        after.lines().next().map(str::to_owned)
    }

    /// Whether the guest's kernel panicked for want of memory. The guest's root can forge this.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let text = self.text();
        let Some((_, reason)) = text.rsplit_once(PANIC) else {
            return false;
        };
        OUT_OF_MEMORY.iter().any(|words| reason.starts_with(words))
    }

    /// The last lines, below `; <what> said:`; empty if there are none.
    pub(crate) fn tail(&self, what: &str) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        match &lines[lines.len().saturating_sub(8)..] {
            [] => String::new(),
            last => format!("; {what} said:\n  {}", last.join("\n  ")),
        }
    }

    /// The tail as text. Control characters are replaced: a hostile guest must not reach the terminal.
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let clean = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
        String::from_utf8_lossy(&bytes).chars().map(clean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(bytes: &[u8]) -> (Capture, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (rx, mut tx) = std::io::pipe().unwrap();
        let mut capture = Capture::new(rx.into(), &folder.path().join("log")).unwrap();
        for chunk in bytes.chunks(4096) {
            tx.write_all(chunk).unwrap();
            assert!(capture.drain().unwrap());
        }
        drop(tx);
        assert!(!capture.drain().unwrap());
        (capture, folder)
    }

    #[test]
    fn a_boot_failure_is_found_among_other_lines() {
        let text = format!("[0.1] noise\r\n{BOOT_FAILURE_PREFIX}cannot mount /dev/vdb\r\nmore\r\n");
        let (capture, _folder) = captured(text.as_bytes());
        assert_eq!(capture.boot_failure().unwrap().trim(), "cannot mount /dev/vdb");
    }

    #[test]
    fn a_kernel_panic_for_want_of_memory_is_distinguished_from_other_panics() {
        let ran_out = |reason: &str| {
            let text = format!("noise\r\n[    4.2] {PANIC}{reason}\r\n[    4.2] CPU: 0 PID: 1\r\n");
            captured(text.as_bytes()).0.ran_out_of_memory()
        };
        assert!(ran_out("System is deadlocked on memory"));
        assert!(ran_out("Out of memory: system-wide panic_on_oom is enabled"));
        assert!(!ran_out("Attempted to kill init! exitcode=0x00000009"));
        assert!(!captured(b"Out of memory: Killed process 7 (tail)\n").0.ran_out_of_memory());
    }

    #[test]
    fn a_flood_of_output_is_truncated_in_the_file_and_its_tail_is_kept() {
        let mut flood = vec![b'x'; FILE_LIMIT as usize + 10_000];
        flood.extend_from_slice(b"\nlast line\n");
        let (capture, folder) = captured(&flood);
        let kept = std::fs::metadata(folder.path().join("log")).unwrap().len();
        assert_eq!(kept, FILE_LIMIT + FULL.len() as u64);
        assert!(capture.tail("the console").ends_with("\n  last line"));
        assert!(capture.tail.len() <= TAIL_LIMIT);
    }

    #[test]
    fn a_full_disk_truncates_the_log_and_the_pipe_is_still_drained() {
        let (rx, mut tx) = std::io::pipe().unwrap();
        let mut capture = Capture::new(rx.into(), Path::new("/dev/full")).unwrap();
        tx.write_all(b"one\n").unwrap();
        assert!(capture.drain().unwrap());
        tx.write_all(b"two\n").unwrap();
        assert!(capture.drain().unwrap());
        assert!(capture.tail("the console").ends_with("\n  one\n  two"));
    }

    #[test]
    fn escape_sequences_of_a_guest_do_not_reach_the_terminal() {
        let (capture, _folder) = captured(b"\x1b[2Jboo\n");
        assert!(!capture.tail("the console").contains('\x1b'));
    }
}
