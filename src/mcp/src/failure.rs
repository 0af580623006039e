//! Why a call has no result.

use crate::message::RpcError;

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// For the model: what went wrong, and what to do.
    Error(String),
    /// For the program that is the client: an error of the protocol.
    Protocol(RpcError),
    /// The client does not want a reply any more.
    Cancelled,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;
