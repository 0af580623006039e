//! What can go wrong with a process.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, variable or path holds a zero byte.
    #[error("a zero byte in `{text}`")]
    ZeroByte {
        /// The text, made readable.
        text: String,
    },
    /// The kernel gave no new process.
    #[error("cannot fork for `{program}`")]
    Fork {
        /// What was to run.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The new process could not become what it was to be.
    #[error("cannot start `{program}`: {stage}")]
    Start {
        /// What was to run.
        program: String,
        /// What it failed at.
        stage: Stage,
        /// Why.
        source: io::Error,
    },
    /// A pipe or a descriptor for a new process could not be made.
    #[error("cannot prepare descriptors for `{program}`")]
    Descriptors {
        /// What was to run.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A root folder for a new process could not be prepared.
    #[error("cannot prepare {path} for a jail")]
    Jail {
        /// The folder or device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// The signal's number.
        signal: i32,
        /// Why.
        source: io::Error,
    },
    /// A process could not be waited for.
    #[error("cannot wait for process {pid}")]
    Wait {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// There is no cgroup v2 file system.
    #[error("no cgroup v2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroup2,
    /// A cgroup operation failed.
    #[error("cannot {operation} {path}")]
    Cgroup {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Killed processes of a cgroup are still there.
    #[error("processes in {path} did not end in time")]
    CgroupBusy {
        /// The cgroup.
        path: PathBuf,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error number beneath, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::ZeroByte { .. } => Some(libc::EINVAL),
            Self::NoCgroup2 | Self::CgroupBusy { .. } => None,
            Self::Fork { source, .. }
            | Self::Start { source, .. }
            | Self::Descriptors { source, .. }
            | Self::Jail { source, .. }
            | Self::Signal { source, .. }
            | Self::Wait { source, .. }
            | Self::Cgroup { source, .. } => source.raw_os_error(),
        }
    }
}

/// What a new process does between fork and exec, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Put its standard streams and other descriptors in place.
    Stdio = 1,
    /// Say how much rather than others it is to be killed when memory runs out.
    OomScore,
    /// Become the leader of a session.
    Session,
    /// Take the terminal as its own.
    Terminal,
    /// Enter its network namespace.
    Network,
    /// Enter a root folder of its own.
    Jail,
    /// Become its user.
    Credentials,
    /// Tie its life to its parent's.
    ParentDeath,
    /// Give up gaining privileges.
    NoNewPrivileges,
    /// Set its resource limits.
    Limits,
    /// Enter its working folder.
    Cwd,
    /// Run the program.
    Exec,
}

impl Stage {
    pub(crate) fn from_byte(byte: u8) -> Self {
        const ALL: [Stage; 12] = [
            Stage::Stdio,
            Stage::OomScore,
            Stage::Session,
            Stage::Terminal,
            Stage::Network,
            Stage::Jail,
            Stage::Credentials,
            Stage::ParentDeath,
            Stage::NoNewPrivileges,
            Stage::Limits,
            Stage::Cwd,
            Stage::Exec,
        ];
        ALL.into_iter().find(|stage| *stage as u8 == byte).unwrap_or(Stage::Exec)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stdio => "cannot set its descriptors",
            Self::OomScore => "cannot set its out-of-memory score",
            Self::Session => "cannot make a session",
            Self::Terminal => "cannot take the terminal",
            Self::Network => "cannot enter its network namespace",
            Self::Jail => "cannot enter a root folder of its own",
            Self::Credentials => "cannot become its user",
            Self::ParentDeath => "cannot follow its parent's death",
            Self::NoNewPrivileges => "cannot give up privileges",
            Self::Limits => "cannot set its limits",
            Self::Cwd => "cannot enter its working folder",
            Self::Exec => "cannot run it",
        })
    }
}

/// `bytes` as a C string.
pub(crate) fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| Error::ZeroByte { text: String::from_utf8_lossy(bytes).into_owned() })
}
