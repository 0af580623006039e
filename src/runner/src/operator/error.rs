//! Errors of commands that use the platform.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use platform::RunId;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    // The platform.
    #[error("no platform serves {state}: start one with `runner start --local` or `runner serve`")]
    NotServed { state: PathBuf },
    #[error("cannot reach the platform of {state}")]
    Unreachable { state: PathBuf, source: io::Error },
    #[error("{message}")]
    Refused { code: String, message: String },
    #[error(transparent)]
    Platform(#[from] platform::Error),

    // Jobs.
    #[error("stopped following; job {run} continues: `runner job events --follow {run}`")]
    Left { run: RunId, signal: Signal },
    #[error(
        "lost the platform while following job {run}: when it serves again, run \
         `runner job events --follow {run}`"
    )]
    Lost { run: RunId, source: Box<Error> },
    #[error("job {run} has no artifact")]
    NoArtifact { run: RunId },
    #[error("job {run} has several artifacts: select one with --name: {names}")]
    SeveralArtifacts { run: RunId, names: String },
    #[error("{path} is not empty: --merge replaces files of the same names and leaves the rest")]
    NotEmpty { path: PathBuf },

    // What was typed.
    #[error("a secret has no name: expected NAME, or NAME=VALUE")]
    NamelessSecret,
    #[error("--secret {name} has no value: the environment variable {name} is not set")]
    NoSuchVariable { name: String },
    #[error(
        "--database has a password, which other users of the host see in `ps`: use --database-file, or \
         a password file (PGPASSFILE)"
    )]
    PasswordTyped,
    #[error("{path} has a password, and others than its owner may read it: chmod 600 {path}")]
    PasswordReadable { path: PathBuf },
    #[error("cannot read {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{what} is not UTF-8 text")]
    NotText { what: String },
    #[error("{path} has no name for its artifact: use NAME=DIR:MOUNT")]
    NamelessArtifact { path: PathBuf },
    #[error("two artifacts are named {name}: use NAME=DIR:MOUNT for one of them")]
    SameName { name: String },
}

impl Error {
    /// The error for the operator.
    pub(super) fn explain(error: platform::Error, state: &Path) -> Self {
        let state = state.to_owned();
        match error {
            platform::Error::NotServed { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Self::NotServed { state }
                }
                _ => Self::Unreachable { state, source },
            },
            platform::Error::Answered { code, message, .. } => Self::Refused { code, message },
            platform::Error::Refused(refusal) => {
                Self::Refused { code: refusal.code().to_owned(), message: refusal.to_string() }
            }
            other => Self::Platform(other),
        }
    }

    /// Whether the platform went away, as it does at a restart.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::NotServed { .. } => true,
            Self::Refused { code, .. } => code == "STOPPED" || code == "UNAVAILABLE",
            Self::Platform(error) => {
                !matches!(error, platform::Error::Deadline | platform::Error::Cut)
            }
            _ => false,
        }
    }

    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Left { signal, .. } => Some(128 + *signal as u8),
            Self::NamelessSecret | Self::NoSuchVariable { .. } | Self::NotText { .. } => Some(2),
            Self::NamelessArtifact { .. } | Self::SameName { .. } => Some(2),
            Self::PasswordTyped | Self::PasswordReadable { .. } => Some(2),
            _ => None,
        }
    }

    pub(crate) fn remedy(&self) -> Option<&'static str> {
        let Self::Refused { code, .. } = self else {
            return None;
        };
        match code.as_str() {
            "NO_JOB" => Some(": `runner job ls` lists them"),
            "NO_RUNNER" => Some(": `runner fleet ls` lists them"),
            "SEVERAL_RUNNERS" => Some(": use the id"),
            "AMBIGUOUS" => Some(": use a longer prefix"),
            "NO_TOKEN" => Some(": `runner token ls` lists them"),
            "KEY_REUSED" => Some(": use another --key, or the same submission"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_served(kind: io::ErrorKind) -> Error {
        let path = PathBuf::from("/s/control/control.sock");
        Error::explain(platform::Error::NotServed { path, source: kind.into() }, Path::new("/s"))
    }

    #[test]
    fn an_unserved_folder_names_both_ways_to_serve_it() {
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            let text =
                "no platform serves /s: start one with `runner start --local` or `runner serve`";
            assert_eq!(not_served(kind).to_string(), text);
        }
    }

    #[test]
    fn a_platform_of_another_user_is_not_reported_as_absent() {
        let error = crate::error::Error::from(not_served(io::ErrorKind::PermissionDenied));
        assert_eq!(error.chain(), "cannot reach the platform of /s: permission denied");
    }

    #[test]
    fn an_unknown_job_is_reported_without_an_http_status() {
        let answered = platform::Error::Answered {
            status: 404,
            code: "NO_JOB".into(),
            message: "no job `abcd`".into(),
        };
        let error = Error::explain(answered, Path::new("/s"));
        assert_eq!(error.to_string(), "no job `abcd`");
        assert_eq!(error.remedy(), Some(": `runner job ls` lists them"));
    }
}
