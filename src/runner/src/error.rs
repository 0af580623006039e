//! What can go wrong in the runner.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::service::Amount;

/// The result of this crate's operations.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    // Asked for what cannot be.
    #[error("no command given, and image `{image}` names none")]
    NoCommand { image: String },
    #[error("the prompt is not UTF-8 text")]
    PromptNotText,
    #[error("a variable given with --env has no name: expected NAME=VALUE, or NAME")]
    NamelessVariable,
    #[error("the command cannot be started")]
    CommandTooLong { source: base::exec_limit::Excess },
    #[error("{path} line {line}: expected NAME=VALUE, or NAME of a variable of this process")]
    EnvFile { path: PathBuf, line: usize },
    #[error("one of the two must be VM:PATH: copying is from a VM or to one")]
    CopySides,
    #[error("there is no user `{name}` at the destination")]
    NoSuchUser { name: String },
    #[error("{failed} of {total} --copy-out failed; the command's exit code is {code}")]
    NotCopiedOut { failed: usize, total: usize, code: u8 },
    #[error("{path} cannot be copied to a VM: it is {kind}")]
    NotCopyable { path: PathBuf, kind: sandbox::Special },
    #[error("--publish needs a network, and there is none with --network none")]
    NothingToPublish,
    #[error("{path} is not a network policy")]
    Policy { path: PathBuf, source: toml::de::Error },
    #[error("--secret needs --for, and both need --network intercept: give others with --env")]
    NotHeld,
    #[error("--for does not say which secret it is for: expected NAME=HOST")]
    ForWhich,
    #[error("--for names the secret {name}, and there is none")]
    NoSuchSecret { name: String },
    #[error("the job's {what} cannot be understood")]
    NetworkContext { what: &'static str },
    #[error("the job's secrets are for hosts alone, and its network is not intercepted")]
    HeldInVain,
    #[error("the secret {name} is no variable of this process: set it")]
    SecretNotSet { name: String },
    #[error(transparent)]
    Intercept(intercept::Error),
    #[error(
        "Firecracker is not found: name it with --firecracker, or put it into PATH, or use --vmm qemu"
    )]
    NoFirecracker,
    #[error("Firecracker needs KVM, and {reason}: use --vmm qemu")]
    FirecrackerNeedsKvm { reason: String },
    #[error("Firecracker cannot be confined by the jailer that is named")]
    Jailer(#[source] sandbox::Cause),
    #[error("starts are measured without the proxy, which is no part of them: use --network open")]
    BenchIntercepted,
    #[error("cannot start a thread of the bench")]
    BenchThread { source: io::Error },
    #[error("{path} is not what `runner bench --json` prints")]
    Report { path: PathBuf, source: serde_json::Error },
    #[error("no profile `{name}` in {path}")]
    NoProfile { name: String, path: PathBuf },
    #[error("`{program}` ended with code {code}, so nothing is saved")]
    WarmUp { program: String, code: u8 },
    #[error("microVMs have cgroups, users and namespaces of their own, which takes root: use sudo")]
    NotRoot,

    // What a command did.
    #[error("cannot run `{program}`: {message}")]
    NotStarted { program: String, code: u8, message: String },
    #[error("cannot write its output")]
    Output { source: io::Error },
    #[error("stopped by {signal}")]
    Interrupted { signal: Signal },
    #[error("the background runner failed")]
    Detached { code: Option<u8> },

    // Virtual machines and images.
    #[error(transparent)]
    Vm(sandbox::Cause),
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error(transparent)]
    Image(#[from] rootfs::Error),
    #[error(
        "no guest programs in {looked}: build them with scripts/build-guest, or name their folder with --guest-dir"
    )]
    NoGuestPrograms { looked: String },
    #[error("VM `{vm}` has no log of a command: it was not started with -d")]
    NoLog { vm: String },
    #[error("VM `{vm}` was started without a command: name one of `exec -d` with --command")]
    NoOwnCommand { vm: String },
    #[error("no command `{name}` in VM `{vm}`: `runner ps {vm}` lists those that there are")]
    NoSuchCommand { vm: String, name: String },
    #[error("a command `{name}` runs in VM {vm}")]
    CommandTaken { vm: String, name: String },
    #[error(
        "VM {vm} has {} commands in the background, which is the limit",
        crate::background::MOST
    )]
    TooManyCommands { vm: String },
    #[error("VM `{vm}`, or the command's runner process, ended before the command")]
    CommandLost { vm: String },
    #[error("{failed} of {total} VMs could not be stopped")]
    NotStopped { failed: usize, total: usize },

    // The service.
    #[error("{path} is not a configuration")]
    Config { path: PathBuf, source: toml::de::Error },
    #[error("{key}: expected {expected}")]
    ConfigValue { key: String, expected: &'static str },
    #[error(
        "profile `{name}` needs {needed}, and jobs together have {budget} (less what warm VMs have)"
    )]
    ProfileTooLarge { name: String, needed: Amount, budget: Amount },
    #[error("profile `{name}` cannot be used")]
    Profile { name: String, source: Box<Error> },
    #[error(
        "profile `{name}` has no network, and its jobs could not reach the platform by any other way"
    )]
    ProfileWithoutPlatform { name: String },
    #[error(
        "there is no platform to take jobs from: name one in [api] of runner.toml, or use --local"
    )]
    NoPlatform,
    #[error("another `runner start` serves {path}")]
    Served { path: PathBuf },
    #[error("{path} is damaged")]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("the variable {name} is not set, which [api] names as `bypass_env`")]
    NoBypass { name: String },
    #[error("{path} is empty: it is to hold the runner's token")]
    EmptyToken { path: PathBuf },
    #[error("cannot reach the platform at {url}")]
    PlatformUnreachable { url: String, source: guest_common::Error },
    #[error("TLS with the platform at {url} fails")]
    PlatformTls { url: String, source: guest_common::Error },
    #[error("the platform at {url} refuses the token in {path}")]
    PlatformRefuses { url: String, path: PathBuf, source: guest_common::Error },
    #[error("the platform at {url} fails")]
    PlatformFails { url: String, source: guest_common::Error },
    #[error(
        "VMs cannot reach {url}, the loopback device of the host: let the platform listen at another address of the host, and name that in [api] url"
    )]
    PlatformOnLoopback { url: String },
    #[error("cannot subscribe to jobs")]
    Push { source: ably_subscriber::Error },
    #[error("cannot ask the platform")]
    Api {
        #[from]
        source: guest_common::Error,
    },
    #[cfg(feature = "control")]
    #[error("cannot use the embedded platform")]
    Control {
        #[from]
        source: control::Error,
    },

    // A job.
    #[error("the platform described the job in a way that makes no sense")]
    Context { source: serde_json::Error },
    #[error("the session's history {problem}")]
    History { problem: &'static str },
    #[error("the session's history cannot be read")]
    ReadHistory { source: io::Error },
    #[error("a folder of the job cannot be at {path}: {reason}")]
    Mount { path: PathBuf, reason: &'static str },
    #[error("the job's storages are not in place: {said}")]
    Storages { said: String },
    #[error("the agent ended with exit code {code} and left no outcome: {said}")]
    NoOutcome { code: u8, said: String },
    #[error("{0}")]
    Ended(crate::service::End),
    #[error("a thread of the runner panicked: this is a bug")]
    Panicked,

    // Files out of a VM, whose names and order are the guest's.
    #[error("the guest sent {path:?}, which would be outside of the destination")]
    Escape { path: PathBuf },
    #[error("the guest sent {path:?}, which is nested too deeply")]
    TooDeep { path: PathBuf },
    #[error("the guest sent {what} where that makes no sense")]
    OutOfOrder { what: &'static str },
    #[error("{path} is a folder; to `-` only a file can be copied")]
    FolderToStream { path: PathBuf },
    #[error("{path} is neither a file nor a folder: it is not replaced")]
    Special { path: PathBuf },
    #[error("{path} is not a folder")]
    NotADirectory { path: PathBuf },

    #[cfg(feature = "control")]
    #[error("the guest sent {path:?}, which is {kind}: it is not unpacked")]
    NotUnpacked { path: PathBuf, kind: &'static str },
    #[cfg(feature = "control")]
    #[error("the guest sent more than {limit} {what}")]
    TooMuch { limit: u64, what: &'static str },

    // The platform and its jobs.
    #[cfg(feature = "control")]
    #[error(transparent)]
    Platform(#[from] crate::platform::Error),

    // Files and descriptors of this host.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot read standard input")]
    Stdin { source: io::Error },
    #[error("cannot set up the terminal")]
    Terminal { source: io::Error },
    #[error("cannot take signals")]
    Signals { source: io::Error },
    #[error("cannot start the thread `{name}`")]
    Thread { name: &'static str, source: io::Error },
    #[error("cannot start a runner in the background")]
    Detach { source: io::Error },
    #[error("cannot write JSON")]
    Json { source: serde_json::Error },
}

impl Error {
    /// What the platform, or the way there, has to do with it.
    pub(crate) fn of_api(&self) -> Option<&guest_common::Error> {
        match self {
            Self::Api { source } => Some(source),
            _ => None,
        }
    }

    /// The exit code, where it does not depend on the sub-command.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::NoCommand { .. } | Self::PromptNotText | Self::EnvFile { .. } => Some(2),
            Self::NamelessVariable | Self::CommandTooLong { .. } | Self::CopySides => Some(2),
            Self::Policy { .. } | Self::NothingToPublish => Some(2),
            Self::NotHeld | Self::ForWhich | Self::NoSuchSecret { .. } => Some(2),
            Self::SecretNotSet { .. } => Some(2),
            Self::Config { .. } | Self::ConfigValue { .. } | Self::NoPlatform => Some(2),
            Self::ProfileTooLarge { .. } | Self::ProfileWithoutPlatform { .. } => Some(2),
            Self::NotStarted { code, .. } => Some(*code),
            // The command's failure is the one to pass on.
            Self::NotCopiedOut { code, .. } => Some(*code).filter(|code| *code != 0),
            Self::Interrupted { signal } => Some(128 + *signal as u8),
            Self::Output { .. } if self.is_quiet() => Some(128 + Signal::SIGPIPE as u8),
            Self::Detached { code } => *code,
            #[cfg(feature = "control")]
            Self::Platform(error) => error.exit_code(),
            _ => None,
        }
    }

    /// Whether there is nothing to say: who read our output knows that it left, and the runner in
    /// the background has said why it failed.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Output { source } => source.kind() == io::ErrorKind::BrokenPipe,
            Self::Detached { code } => code.is_some(),
            _ => false,
        }
    }

    /// Whether somebody asked for the end, who must not have to wait for it.
    pub(crate) fn is_hasty(&self) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            #[cfg(feature = "control")]
            Self::Platform(crate::platform::Error::Left { .. }) => true,
            _ => false,
        }
    }

    /// Whether output was given up because nobody took it when the run was called off.
    pub(crate) fn is_called_off(&self) -> bool {
        let code = Errno::ECANCELED as i32;
        matches!(self, Self::Output { source } if source.raw_os_error() == Some(code))
    }

    /// In one line: the operation that failed, and why, and why …
    pub(crate) fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            line.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        line
    }

    /// What to do about it, to be appended.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Profile { source, .. } => source.remedy(),
            Self::Image(rootfs::Error::NoImage { .. }) => {
                Some(": `runner image ls` lists them, `runner image build NAME` makes one")
            }
            #[cfg(feature = "control")]
            Self::Platform(error) if error.remedy().is_some() => error.remedy(),
            _ if self.is_denied() && !nix::unistd::geteuid().is_root() => {
                Some(": try it as root, with sudo")
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

/// Names the operation and the path of a failed file operation.
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
    fn a_reader_that_left_is_no_reason_to_complain() {
        let error = Error::Output { source: io::ErrorKind::BrokenPipe.into() };
        assert!(error.is_quiet());
        assert_eq!(error.exit_code(), Some(141));
    }

    #[test]
    fn a_full_disk_is() {
        let error = Error::Output { source: io::ErrorKind::StorageFull.into() };
        assert!(!error.is_quiet());
        assert_eq!(error.exit_code(), None);
    }
}
