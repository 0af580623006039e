//! Why the registry refuses a call.

use std::time::Duration;

use super::budget::TooMany;
use crate::launcher::LaunchError;

/// The result of the registry's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call on a sandbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("sandbox `{id}` does not exist, or belongs to another key")]
    NotFound { id: String },
    #[error("sandbox `{id}` is paused: connect to it to resume it")]
    Paused { id: String },
    #[error("sandbox `{id}` is being paused")]
    Pausing { id: String },
    #[error("sandbox `{id}` is still being paused or resumed: try again")]
    Busy { id: String },
    #[error("template `{name}` does not exist")]
    NoTemplate { name: String },
    #[error("the time-out must be greater than 0")]
    NoTimeout,
    #[error("the time-out is longer than {} s, the limit of this server", limit.as_secs())]
    TimeoutTooLong { limit: Duration },
    #[error(transparent)]
    TooMany(TooMany),
    #[error("the page token is not one that this server gave")]
    BadToken,
    #[error("the server is stopping")]
    Stopping,
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("cannot pause sandbox `{id}`: it was ended")]
    Pause { id: String, source: sandbox::Error },
    #[error("cannot resume sandbox `{id}`: it was ended")]
    Resume { id: String, source: sandbox::Error },
    #[error("cannot change the network of sandbox `{id}`: it was ended")]
    Network { id: String, source: sandbox::Error },
    #[error("cannot read random bytes")]
    Entropy { source: base::random::Error },
    #[error("cannot make an event: the server has too many open files")]
    Event { source: std::io::Error },
    #[error("cannot start thread {name}")]
    Thread { name: String, source: std::io::Error },
}
