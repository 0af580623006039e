//! Errors of the runner, their exit codes and remedies.

mod usage;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::Signal;

pub(crate) use self::usage::Usage;

/// The result of this crate's operations.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A wrong command line or configuration file.
    #[error(transparent)]
    Usage(#[from] Usage),

    // Copies.
    #[error("no user `{name}` at the destination")]
    NoSuchUser { name: String },
    #[error("{failed} of {total} --copy-out failed; the command's exit code is {code}")]
    NotCopiedOut { failed: usize, total: usize, code: u8 },
    #[error("cannot copy {path} to a VM: it is {kind}")]
    NotCopyable { path: PathBuf, kind: sandbox::Special },

    // Networks.
    #[error(transparent)]
    Egress(#[from] egress::Error),

    // Monitors and privileges of this host.
    #[error("Firecracker is not found: set --firecracker, add it to PATH, or use --vmm qemu")]
    NoFirecracker,
    #[error("Firecracker needs KVM, and {reason}: use --vmm qemu")]
    FirecrackerNeedsKvm { reason: String },
    #[error("cannot use the jailer of --firecracker-jailer")]
    Jailer(#[source] sandbox::Cause),
    #[error(
        "microVMs need cgroups, users and namespaces of their own, which requires root: use sudo"
    )]
    NotRoot,

    // Measurements and snapshots.
    #[error("`runner bench` does not measure the proxy: use --network open")]
    BenchIntercepted,
    #[error("{path} is not a report of `runner bench --json`")]
    Report { path: PathBuf, source: serde_json::Error },
    #[error("no profile `{name}` in {path}")]
    NoProfile { name: String, path: PathBuf },
    #[error("`{program}` exited with code {code}: nothing is saved")]
    WarmUp { program: String, code: u8 },

    // Commands in VMs.
    #[error("cannot run `{program}`: {message}")]
    NotStarted { program: String, code: u8, message: String },
    #[error("cannot write output")]
    Output { source: io::Error },
    #[error("stopped by {signal}")]
    Interrupted { signal: Signal },
    #[error("the background runner failed")]
    Detached { code: Option<u8> },
    #[error("VM `{vm}` has no command log: it was not started with -d")]
    NoLog { vm: String },
    #[error("VM `{vm}` was started without a command: select one of `exec -d` with --command")]
    NoOwnCommand { vm: String },
    #[error("no command `{name}` in VM `{vm}`: `runner ps {vm}` lists its commands")]
    NoSuchCommand { vm: String, name: String },
    #[error("a command `{name}` already runs in VM {vm}")]
    CommandTaken { vm: String, name: String },
    #[error("VM {vm} already runs {limit} commands in the background, the limit")]
    TooManyCommands { vm: String, limit: usize },
    #[error("VM `{vm}` or the command's runner process ended before the command")]
    CommandLost { vm: String },

    // Virtual machines and images.
    #[error(transparent)]
    Vm(sandbox::Cause),
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error(transparent)]
    Image(#[from] rootfs::Error),
    #[error(
        "no guest programs in {looked}: build them with scripts/build-guest, or set --guest-dir"
    )]
    NoGuestPrograms { looked: String },
    #[error("{failed} of {total} VMs could not be stopped")]
    NotStopped { failed: usize, total: usize },

    // The service.
    #[error("cannot use profile `{name}`")]
    Profile { name: String, source: Box<Error> },
    #[error(transparent)]
    Service(#[from] service::Error),

    // Files from a VM. The guest chooses their names and order.
    #[error("cannot extract what the guest sent")]
    Extract {
        #[from]
        source: archive::Error,
    },
    #[error("the guest sent {what} out of order")]
    OutOfOrder { what: &'static str },
    #[error("{path} is a folder: only a file can be copied from or to `-`")]
    FolderToStream { path: PathBuf },
    #[error("{path} is neither a file nor a folder: it is not replaced")]
    Special { path: PathBuf },
    #[error("{path} is not a folder")]
    NotADirectory { path: PathBuf },

    // The platform and its jobs.
    #[cfg(feature = "platform")]
    #[error(transparent)]
    Operator(#[from] crate::operator::Error),

    // Sandboxes for programs.
    #[error(transparent)]
    Key(#[from] sandbox_api::KeyError),
    #[error(transparent)]
    Sandboxes(#[from] sandbox_api::Error),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Server(#[from] http_server::Error),

    // Files and descriptors of this host.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot read standard input")]
    Stdin { source: io::Error },
    #[error("cannot set up the terminal")]
    Terminal { source: io::Error },
    #[error("cannot handle signals")]
    Signals { source: io::Error },
    #[error("cannot start the thread `{name}`")]
    Thread { name: &'static str, source: io::Error },
    #[error("cannot start a runner in the background")]
    Detach { source: io::Error },
    #[error("{path} is damaged")]
    Record { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Ssh(#[from] crate::ssh::Error),
    #[error("cannot encode JSON")]
    Json { source: serde_json::Error },
}

impl Error {
    /// The exit code; `None` leaves it to the sub-command.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Usage(_) | Self::Egress(egress::Error::Usage(_)) => Some(2),
            Self::Service(error) if error.is_usage() => Some(2),
            Self::NotStarted { code, .. } => Some(*code),
            // A command's own failure takes precedence.
            Self::NotCopiedOut { code, .. } => Some(*code).filter(|code| *code != 0),
            Self::Interrupted { signal } => Some(128 + *signal as u8),
            Self::Output { .. } if self.is_quiet() => Some(128 + Signal::SIGPIPE as u8),
            Self::Detached { code } => *code,
            #[cfg(feature = "platform")]
            Self::Operator(error) => error.exit_code(),
            _ => None,
        }
    }

    /// Whether no message is printed: the reader of our output has closed it, or the background
    /// runner has printed the message already.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Output { source } => source.kind() == io::ErrorKind::BrokenPipe,
            Self::Detached { code } => code.is_some(),
            _ => false,
        }
    }

    /// Whether a signal ended this process. Its message must not block the exit.
    pub(crate) fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            #[cfg(feature = "platform")]
            Self::Operator(crate::operator::Error::Left { .. }) => true,
            _ => false,
        }
    }

    /// Whether a cancellation ended a write that waited for a reader.
    pub(crate) fn is_cancelled_output(&self) -> bool {
        let code = Errno::ECANCELED as i32;
        matches!(self, Self::Output { source } if source.raw_os_error() == Some(code))
    }

    /// The error and all its causes on one line.
    pub(crate) fn chain(&self) -> String {
        base::error::chain(self)
    }

    /// A suggestion to append to the message.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Profile { source, .. } => source.remedy(),
            Self::Image(rootfs::Error::NoImage { .. }) => {
                Some(": `runner image ls` lists them, `runner image build NAME` makes one")
            }
            #[cfg(feature = "platform")]
            Self::Operator(error) if error.remedy().is_some() => error.remedy(),
            _ if self.is_denied() && !nix::unistd::geteuid().is_root() => {
                Some(": run it as root, with sudo")
            }
            _ => None,
        }
    }

    fn is_denied(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let io = error.downcast_ref::<io::Error>();
            if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Makes an [`Error::File`] of the cause of a failed file operation.
pub(crate) fn file<E: Into<io::Error>>(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_exits_with_141_and_no_message() {
        let error = Error::Output { source: io::ErrorKind::BrokenPipe.into() };
        assert!(error.is_quiet());
        assert_eq!(error.exit_code(), Some(141));
    }

    #[test]
    fn a_full_disk_is_reported() {
        let error = Error::Output { source: io::ErrorKind::StorageFull.into() };
        assert!(!error.is_quiet());
        assert_eq!(error.exit_code(), None);
    }
}
