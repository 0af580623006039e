//! The programs of a QEMU VM, and how to install them.

use std::fs::File;
use std::os::fd::AsRawFd;

use microvm::{Error, Result, look_up};
use process::Command;

pub(crate) const QEMU: &str =
    if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
pub(crate) const VSOCK_DEVICE: &str = "vhost-device-vsock";

/// A program that is not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingTool {
    /// The program.
    pub program: &'static str,
    /// The command that installs it.
    pub remedy: &'static str,
}

/// The programs that are not installed.
pub fn missing_tools() -> Vec<MissingTool> {
    [QEMU, VSOCK_DEVICE]
        .into_iter()
        .filter(|program| look_up(program).is_none())
        .map(|program| MissingTool { program, remedy: remedy(program) })
        .collect()
}

/// An opened program. A VM's user can run it even without permission on its parent folders.
pub(crate) struct Tool {
    name: &'static str,
    file: File,
}

impl Tool {
    pub(crate) fn find(name: &'static str) -> Result<Self> {
        let missing = || Error::MissingProgram { program: name, remedy: remedy(name) };
        let path = look_up(name).ok_or_else(missing)?;
        let file =
            File::open(&path).map_err(|source| Error::File { operation: "open", path, source })?;
        Ok(Self { name, file })
    }

    pub(crate) fn command<'a>(&self) -> Command<'a> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Command::new(path).shown_as(self.name)
    }
}

fn remedy(program: &str) -> &'static str {
    match program {
        VSOCK_DEVICE => "cargo install --locked vhost-device-vsock --version 0.3.0",
        _ if cfg!(target_arch = "aarch64") => "apt-get install qemu-system-arm",
        _ => "apt-get install qemu-system-x86",
    }
}
