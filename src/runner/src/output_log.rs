//! The output of a background command, in a log file of bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, file};

/// The file's name in a VM's folder.
pub(crate) const OUTPUT: &str = "output.log";
/// The guest's console, in the same place.
pub(crate) const CONSOLE: &str = "console.log";
/// The log of the runner that owns the VM, in the same place.
pub(crate) const RUNNER: &str = "runner.log";

/// The size limit of the log, in bytes.
const LIMIT: u64 = 16 << 20;

/// A log file with a size limit. A note at its end marks output that was dropped.
pub(crate) struct OutputLog {
    path: PathBuf,
    file: File,
    room: u64,
}

impl OutputLog {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: append_to(path)?, room: LIMIT })
    }

    /// Appends `data` up to the size limit. A failed write ends the log, not the command.
    pub(crate) fn append(&mut self, data: &[u8]) {
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX).min(data.len());
        if fits == 0 {
            return;
        }
        self.room -= fits as u64;
        let mut kept = self.file.write_all(&data[..fits]);
        if self.room == 0 {
            let note = format!("\n[runner: {} MiB are kept; what follows is not]\n", LIMIT >> 20);
            kept = kept.and_then(|()| self.file.write_all(note.as_bytes()));
        }
        self.check(kept);
    }

    /// Appends a line of the runner's, even beyond the size limit.
    pub(crate) fn note(&mut self, text: &str) {
        let written = self.file.write_all(format!("[runner: {text}]\n").as_bytes());
        self.check(written);
    }

    fn check(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.room = 0;
            log::error!(
                "cannot write the output log, and no more is kept; path={} error={error}",
                self.path.display()
            );
        }
    }
}

/// Opens a log for appending, readable by its owner only.
pub(crate) fn append_to(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(path).map_err(file("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_replaced_by_a_note_and_the_end_is_still_noted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OUTPUT);
        let mut log = OutputLog::create(&path).unwrap();
        for _ in 0..20 {
            log.append(&vec![b'x'; 1 << 20]);
        }
        log.note("the command ended");

        let kept = std::fs::read(&path).unwrap();

        let tail = String::from_utf8_lossy(&kept[LIMIT as usize..]).into_owned();
        assert_eq!(
            tail,
            "\n[runner: 16 MiB are kept; what follows is not]\n[runner: the command ended]\n"
        );
    }
}
