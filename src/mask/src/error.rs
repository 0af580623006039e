//! Why secrets cannot be masked.

/// A set of secrets cannot be masked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The automaton that finds the secrets would be too large.
    #[error("the secrets are too long to be masked")]
    TooLong {
        /// What the automaton's builder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
