//! Errors between the kernel's start and the service's start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

/// An error that ends the boot. The host gets its text as the reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot mount {what} on {target}")]
    Mount { what: &'static str, target: PathBuf, source: Errno },
    #[error("cannot make the folder {path}")]
    MakeFolder { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot load the kernel module {path}")]
    LoadModule { path: PathBuf, source: Errno },
    #[error("no kernel module for {name}")]
    NoModule { name: String },
    #[error("cannot watch /dev")]
    WatchDevices { source: Errno },
    #[error("no disk {path} after {} s", .timeout.as_secs())]
    NoDisk { path: &'static str, timeout: Duration },
    #[error("the root file system is not an initramfs")]
    NoInitramfs,
    #[error("cannot {operation}")]
    SwitchRoot { operation: &'static str, source: Errno },
    #[error("cannot set up the network device {device}")]
    Network { device: &'static str, source: io::Error },
    #[error("cannot make {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot set the host name")]
    HostName { source: Errno },
    #[error("cannot enable the cgroup controllers")]
    Controllers { source: process::Error },
    #[error("cannot watch for signals")]
    WatchSignals { source: Errno },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
