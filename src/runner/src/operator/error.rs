//! Errors of commands that use the platform.

use std::io;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use platform::RunId;

/// The platform that a command uses.
#[derive(Debug)]
pub(super) enum Target {
    /// The one that serves this state folder.
    State(PathBuf),
    Elsewhere {
        urls: String,
        token_file: PathBuf,
    },
}

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
    #[error("the platform at {urls} rejects the token in {path}: {message}")]
    TokenRejected { urls: String, path: PathBuf, message: String },
    #[error(transparent)]
    Remote(platform::Error),
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
    #[error(
        "--platform needs a token: name the file that has it with --token-file or RUNNER_TOKEN_FILE"
    )]
    NoTokenFile,
    #[error("{path} has a token, and others than its owner may read it: chmod 600 {path}")]
    TokenReadable { path: PathBuf },
    #[error("{path} does not have a token: one line, as `runner token create` prints it")]
    NoToken { path: PathBuf },
    #[error("{path} does not have certificate authorities in PEM: {reason}")]
    Authorities { path: PathBuf, reason: String },
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
    pub(super) fn explain(error: platform::Error, target: &Target) -> Self {
        match target {
            Target::State(state) => Self::explain_here(error, state.clone()),
            Target::Elsewhere { urls, token_file } => match error {
                platform::Error::Answered { status: 401, message, .. } => {
                    let (urls, path) = (urls.clone(), token_file.clone());
                    Self::TokenRejected { urls, path, message }
                }
                platform::Error::TlsHandshake { .. } | platform::Error::NotEncrypted { .. } => {
                    Self::Remote(error)
                }
                other => Self::explain_here(other, PathBuf::new()),
            },
        }
    }

    fn explain_here(error: platform::Error, state: PathBuf) -> Self {
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
            Self::NoTokenFile | Self::TokenReadable { .. } | Self::NoToken { .. } => Some(2),
            Self::Authorities { .. } => Some(2),
            Self::Remote(platform::Error::BadUrl | platform::Error::NotEncrypted { .. }) => Some(2),
            _ => None,
        }
    }

    pub(crate) fn remedy(&self) -> Option<&'static str> {
        let code = match self {
            Self::Refused { code, .. } => code,
            Self::TokenRejected { .. } => {
                return Some(": ask an operator for another (`runner token create`)");
            }
            Self::Remote(platform::Error::TlsHandshake { .. }) => {
                return Some(
                    ": --platform-ca FILE trusts an authority that the system does not know",
                );
            }
            Self::Remote(platform::Error::NotEncrypted { .. }) => {
                return Some(": use https, or --allow-plain-http on a network that you trust");
            }
            _ => return None,
        };
        match code.as_str() {
            "WRONG_ROLE" => Some(": `runner token create --role` makes one of another role"),
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

    fn state() -> Target {
        Target::State("/s".into())
    }

    fn not_served(kind: io::ErrorKind) -> Error {
        let path = PathBuf::from("/s/control/control.sock");
        Error::explain(platform::Error::NotServed { path, source: kind.into() }, &state())
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
        let error = Error::explain(answered, &state());
        assert_eq!(error.to_string(), "no job `abcd`");
        assert_eq!(error.remedy(), Some(": `runner job ls` lists them"));
    }
}
