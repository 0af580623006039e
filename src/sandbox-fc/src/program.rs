//! Firecracker's program: its path, its version, and whether it is static.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use process::Command;

use crate::version::Version;
use crate::{Error, Result};

/// The program's name.
pub(crate) const FIRECRACKER: &str = "firecracker";
/// The time-out of `--version`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// The most output of `--version` that is read.
const LIMIT: u64 = 4096;

/// The path of Firecracker, which is opened for each VM, so that it can be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
}

/// Firecracker's program, opened.
pub(crate) struct Opened {
    pub(crate) file: File,
    /// Whether it is statically linked.
    pub(crate) is_static: bool,
}

impl Program {
    /// The program at `path` if it is given, else the one that is installed.
    pub fn find(path: Option<&Path>) -> Option<Self> {
        let path = match path {
            Some(path) => path.is_file().then(|| path.to_owned()),
            None => microvm::look_up(FIRECRACKER),
        };
        path.map(|path| Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Result<Version> {
        let failed = |source| Error::Program { path: self.path.clone(), source };
        let (printed, printed_tx) = std::io::pipe().map_err(failed)?;
        let child = Command::opened(FIRECRACKER, self.open()?.file)
            .arg("--version")
            .stdout(OwnedFd::from(printed_tx))
            .parent_death_signal(libc::SIGKILL)
            .spawn()
            .map_err(Error::Process)?;
        // It prints less than a pipe's buffer, so it ends before the pipe is read.
        child.wait_until(Instant::now() + VERSION_TIMEOUT).map_err(Error::Process)?;
        drop(child);
        let mut text = String::new();
        printed.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
        Version::parse(&text).ok_or_else(|| Error::NoVersion { path: self.path.clone() })
    }

    pub(crate) fn open(&self) -> Result<Opened> {
        let failed = |source| Error::Program { path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(failed)?;
        let is_static = is_static(&file).map_err(failed)?;
        Ok(Opened { file, is_static })
    }
}

/// Whether a 64-bit ELF program has no interpreter.
fn is_static(file: &File) -> std::io::Result<bool> {
    const INTERPRETER: u32 = 3;
    const HEADER: usize = 56;
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0)?;
    let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let mut offset = [0; 8];
    offset.copy_from_slice(&head[32..40]);
    let (mut at, size, count) = (u64::from_le_bytes(offset), short(54), short(56));
    if !head.starts_with(b"\x7fELF\x02") || usize::from(size) < HEADER {
        return Ok(false);
    }
    for _ in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, at)?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(false);
        }
        at = at.saturating_add(size.into());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_an_interpreter_is_not_static() {
        assert!(!is_static(&File::open("/proc/self/exe").unwrap()).unwrap());
        assert!(!is_static(&File::open("/etc/passwd").unwrap()).unwrap());
    }

    #[test]
    fn a_missing_program_at_a_given_path_is_not_searched_elsewhere() {
        assert_eq!(Program::find(Some(Path::new("/no/such/firecracker"))), None);
    }
}
