//! Errors: those of the caller, and those of a connection.
//!
//! INVARIANT: no text contains a token or a URL; servers' messages are redacted.

use std::io;
use std::time::Duration;

/// Why a subscription could not start, or ended in an error. In between there are
/// [events](crate::Event).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// A host is neither a name nor an address.
    #[error("`{host}` is not a host")]
    Host { host: String },
    /// The subscription's thread, or what it needs, could not be made.
    #[error("cannot start a subscription")]
    Start { source: io::Error },
    /// The subscription's thread could not wait, and has ended.
    #[error("cannot wait for the connection")]
    Wait { source: io::Error },
    /// The subscription's thread panicked.
    #[error("the subscription's thread panicked")]
    Panicked,
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// The error of the callback for token requests of a [`Config`](crate::Config).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum TokenError {
    /// Final, like HTTP's 403: the subscription fails.
    #[error("the source of token requests refuses")]
    Refused { source: Box<dyn std::error::Error + Send + Sync> },
    /// Temporary: it is retried with back-off.
    #[error("the source of token requests cannot be reached")]
    Unavailable { source: Box<dyn std::error::Error + Send + Sync> },
    /// The source's answer is not a token request. It is not shown, as it may be a token.
    #[error("the source of token requests answered with something else")]
    Malformed,
}

/// Why there is no connection or no attached channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("cannot get a token request")]
    TokenRequest { source: TokenError },
    #[error("the callback for token requests panicked")]
    Callback,
    #[error("cannot look up {host}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {host}")]
    Connect { host: String, source: io::Error },
    #[error("cannot agree on TLS with {host}")]
    Tls { host: String, source: io::Error },
    #[error("the system's certificates are not usable")]
    Trust { source: rustls::Error },
    #[error("{host} did not answer the request for {what}")]
    Http { host: String, what: &'static str, source: io::Error },
    #[error("{host} answered the request for {what} with HTTP {status}{}", code_and_text(*.code, .message))]
    Status { host: String, what: &'static str, status: u16, code: u32, message: String },
    #[error("the server refused{}", code_and_text(*.code, .message))]
    Refused { code: u32, message: String },
    #[error("the server disconnected{}", code_and_text(*.code, .message))]
    Disconnected { code: u32, message: String },
    #[error("the server detached the channel{}", code_and_text(*.code, .message))]
    Detached { code: u32, message: String },
    #[error("the server closed the connection")]
    Closed,
    #[error("the server hung up")]
    HungUp,
    #[error("a frame is larger than {most} bytes")]
    TooLarge { most: usize },
    #[error("the connection failed")]
    Socket { source: io::Error },
    #[error("the server broke the protocol of WebSockets")]
    WebSocket { source: tungstenite::Error },
    #[error("nothing came for {:.1} s", after.as_secs_f64())]
    Silent { after: Duration },
    #[error("the server did not attach the channel in {:.1} s", after.as_secs_f64())]
    NotAttached { after: Duration },
    #[error("cannot start a thread")]
    Thread { source: io::Error },
}

/// What to do about a [`ConnectionError`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Connect again.
    Retry,
    /// Connect again, with another token.
    Renew,
    /// Fail, with Ably's code.
    Fail(u32),
}

/// Ably's code for credentials that are refused for good.
const INVALID_CREDENTIALS: u32 = 40102;

/// Ably's code for a source of token requests that refuses.
const SOURCE_REFUSED: u32 = 80019;

impl ConnectionError {
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::TokenRequest { source: TokenError::Refused { .. } } => {
                Remedy::Fail(SOURCE_REFUSED)
            }
            Self::Refused { code, .. } if is_token_error(*code) => Remedy::Renew,
            Self::Refused { code: 0, .. } => Remedy::Retry,
            Self::Refused { code, .. } => Remedy::Fail(*code),
            Self::Disconnected { code, .. } if is_token_error(*code) => Remedy::Renew,
            Self::Status { code, .. } if is_token_error(*code) => Remedy::Renew,
            Self::Status { status: 401, code: 0, .. } => Remedy::Renew,
            Self::Status { status: 403, code: 0, .. } => Remedy::Fail(40300),
            Self::Status { status, code, .. } if *status == 403 || *code == INVALID_CREDENTIALS => {
                Remedy::Fail(*code)
            }
            _ => Remedy::Retry,
        }
    }

    /// Ably's code; 0 if there is none.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Status { code, .. }
            | Self::Refused { code, .. }
            | Self::Disconnected { code, .. }
            | Self::Detached { code, .. } => *code,
            _ => 0,
        }
    }

    /// Whether another host may succeed.
    pub(crate) fn is_of_host(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500,
            Self::Disconnected { code, .. } | Self::Refused { code, .. } => {
                (50_000..60_000).contains(code)
            }
            Self::TokenRequest { .. } | Self::Trust { .. } => false,
            _ => true,
        }
    }
}

fn is_token_error(code: u32) -> bool {
    (40_140..40_150).contains(&code)
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn code_and_text(code: u32, message: &str) -> String {
    match (code, message) {
        (0, "") => String::new(),
        (0, message) => format!(": {message}"),
        (code, "") => format!(", code {code}"),
        (code, message) => format!(", code {code}: {message}"),
    }
}

/// The most characters of a server's message that are kept.
const MAX_MESSAGE: usize = 500;

/// A server's message, truncated, in one line.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u32) -> ConnectionError {
        ConnectionError::Refused { code, message: String::new() }
    }

    #[test]
    fn token_errors_ask_for_another_token_and_their_neighbours_do_not() {
        assert_eq!(refused(40_139).remedy(), Remedy::Fail(40_139));
        assert_eq!(refused(40_140).remedy(), Remedy::Renew);
        assert_eq!(refused(40_149).remedy(), Remedy::Renew);
        assert_eq!(refused(40_150).remedy(), Remedy::Fail(40_150));
    }

    #[test]
    fn any_reason_of_a_disconnection_is_retried() {
        let loss = ConnectionError::Disconnected { code: 80_003, message: "later".into() };

        assert_eq!(loss.remedy(), Remedy::Retry);
        assert_eq!(loss.to_string(), "the server disconnected, code 80003: later");
    }

    #[test]
    fn a_denied_token_is_final_and_a_failed_token_request_is_not() {
        let refused = TokenError::Refused { source: "no".into() };
        let failed = TokenError::Unavailable { source: "no".into() };

        assert_eq!(
            ConnectionError::TokenRequest { source: refused }.remedy(),
            Remedy::Fail(80_019)
        );
        assert_eq!(ConnectionError::TokenRequest { source: failed }.remedy(), Remedy::Retry);
    }

    #[test]
    fn an_error_chain_names_each_cause() {
        let source = TokenError::Unavailable { source: "no route".into() };

        let text = chain(&ConnectionError::TokenRequest { source });

        assert_eq!(
            text,
            "cannot get a token request: the source of token requests cannot be reached: no route"
        );
    }
}
