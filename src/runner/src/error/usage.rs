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
    #[error("{path} is not a valid network policy")]
    Policy { path: PathBuf, source: toml::de::Error },
    #[error(
        "--secret, --for and --network-record need --network intercept; --env gives a VM the value itself"
    )]
    NotIntercepted,
    #[error("--for does not name its secret: expected NAME=HOST")]
    ForWithoutSecret,
    #[error("--for names the secret {name}, which no --secret defines")]
    NoSuchSecret { name: String },
    #[error("the secret {name} has no value: the environment variable {name} is not set")]
    SecretNotSet { name: String },

    // The service.
    #[error("{path} is not a valid configuration")]
    Config { path: PathBuf, source: toml::de::Error },
    #[error("{key}: expected {expected}")]
    ConfigValue { key: String, expected: &'static str },
    #[error(
        "profile `{name}` needs {needed}, and the budget of all jobs is {budget} (without warm VMs)"
    )]
    ProfileTooLarge { name: String, needed: String, budget: String },
    #[error("profile `{name}` has no network: its jobs cannot reach the platform")]
    ProfileWithoutNetwork { name: String },
    #[error("no platform to take jobs from: set [api] in runner.toml, or use --local")]
    NoPlatform,
}
