//! The errors of processes and cgroups.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// An error of a process or a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// An argument, variable or path holds a zero byte.
    #[error("a zero byte in `{text}`")]
    ZeroByte { text: String },
    /// clone3 failed.
    #[error("cannot fork for `{program}`")]
    Fork { program: String, source: io::Error },
    /// The new process failed between fork and exec.
    #[error("cannot start `{program}`: {stage}")]
    Start { program: String, stage: Stage, source: io::Error },
    /// A pipe or descriptor for a new process could not be created.
    #[error("cannot prepare descriptors for `{program}`")]
    Descriptors { program: String, source: io::Error },
    /// A root folder for a new process could not be prepared.
    #[error("cannot prepare {path} for a jail")]
    Jail { path: PathBuf, source: io::Error },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {pid}")]
    Signal { pid: u32, signal: i32, source: io::Error },
    /// A process could not be waited for.
    #[error("cannot wait for process {pid}")]
    Wait { pid: u32, source: io::Error },
    /// There is no cgroup v2 file system.
    #[error("no cgroup v2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroup2,
    /// A cgroup operation failed.
    #[error("cannot {operation} {path}")]
    Cgroup { operation: &'static str, path: PathBuf, source: io::Error },
    /// Killed processes of a cgroup did not exit in time.
    #[error("processes in {path} did not end in time")]
    CgroupBusy { path: PathBuf },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error number of its cause, if there is one.
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

/// The steps of a new process between fork and exec, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Put its standard streams and other descriptors in place.
    Stdio = 1,
    /// Set its OOM score.
    OomScore,
    /// Become the leader of a session.
    Session,
    /// Take the terminal as its own.
    Terminal,
    /// Enter its network namespace.
    Network,
    /// Enter a root folder of its own.
    Jail,
    /// Set its UID, GID and groups.
    Credentials,
    /// Set its parent-death signal.
    ParentDeath,
    /// Set `no_new_privs`.
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
