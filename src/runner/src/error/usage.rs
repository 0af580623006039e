//! Wrong command lines and configuration files: the exit code is 2.

use std::path::PathBuf;

/// What is wrong with the arguments, or with a file that they name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Usage {
    // Commands.
    #[error("no command given, and image `{image}` has no default command")]
    NoCommand { image: String },
    #[error("the prompt is not UTF-8 text")]
    PromptNotText,
    #[error("--env has a variable without a name: expected NAME=VALUE or NAME")]
    NamelessVariable,
    #[error("the command cannot be started")]
    CommandTooLong { source: base::exec_limit::Excess },
    #[error("{path} line {line}: expected NAME=VALUE or NAME")]
    EnvFile { path: PathBuf, line: usize },
    #[error("exactly one of SRC and DST must be VM:PATH")]
    CopySides,

    // Networks and secrets.
    #[error("--publish needs a network: it cannot be used with --network none")]
    NothingToPublish,
    #[error(
        "--secret, --for and --network-record need --network intercept; --env gives a VM the value itself"
    )]
    NotIntercepted,
    #[error("the secret {name} has no value: the environment variable {name} is not set")]
    SecretNotSet { name: String },
}
