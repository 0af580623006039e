//! Rejections of requests, each with its HTTP status and its code. Clients see the texts: none has a
//! token, a URL's signature, or data of another client.

use contract::InvalidRunId;

use crate::RunId;

/// The reason for which a request is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error("bad request: {reason}")]
    BadRequest { reason: String },
    #[error("the body has {found} {unit}, but {expected} were announced")]
    WrongSize { found: u64, expected: u64, unit: &'static str },
    #[error("the content does not match its hash")]
    WrongHash,
    #[error("the token is missing or unknown")]
    Unauthenticated,
    #[error("the token `{name}` has expired")]
    TokenExpired { name: String },
    #[error("the token `{name}` is for the role {found}, but this needs the role {wanted}")]
    WrongRole { name: String, found: &'static str, wanted: &'static str },
    #[error("the token `{name}` is for runners of group {group}, and not for those of {found}")]
    WrongTokenGroup { name: String, group: String, found: String },
    #[error("a token `{name}` exists: revoke it first, or choose another name")]
    TokenExists { name: String },
    #[error("no token `{name}`")]
    NoToken { name: String },
    #[error("the token is not for this run")]
    WrongRun,
    #[error("the job is for runners of another group")]
    WrongGroup,
    #[error("attempt {attempt} was lost, and its token is revoked")]
    Superseded { attempt: u32 },
    #[error("the URL has expired")]
    UrlExpired,
    #[error("the URL's signature is wrong")]
    BadSignature,
    #[error("the job has no storage `{storage}` that it may write")]
    NotWritable { storage: String },
    #[error("this platform sends no push notifications: poll")]
    NoRealtime,
    #[error("no such path")]
    NoRoute,
    #[error("no job {run}")]
    NoJob { run: RunId },
    #[error("no job `{prefix}`")]
    NoSuchPrefix { prefix: String },
    #[error("several jobs' ids begin with `{prefix}`")]
    Ambiguous { prefix: String },
    #[error("no runner `{name}`")]
    NoRunner { name: String },
    #[error("several runners are named `{name}`, or have ids that begin so")]
    SeveralRunners { name: String },
    #[error("no {what}")]
    NotFound { what: String },
    #[error("job {run} has no session to resume: `runner job artifact get` copies its artifacts")]
    NoSession { run: RunId },
    #[error("this path allows {allowed} only")]
    Method { allowed: &'static str },
    #[error("the body was not received within its timeout")]
    TooSlow,
    #[error("the connection closed before the end of the body")]
    CutShort,
    #[error("another runner claimed the job")]
    Taken,
    #[error("the job has ended")]
    Ended,
    #[error("the job's secrets are gone, so they cannot be masked in this")]
    SecretsGone,
    #[error("{what} not uploaded yet")]
    Missing { what: &'static str },
    #[error("the key belongs to a job with a different submission")]
    KeyReused,
    #[error("the body needs a Content-Length")]
    LengthRequired,
    #[error("more than the limit of {limit} {unit}")]
    TooLarge { limit: u64, unit: &'static str },
    #[error("the secrets are too large to be masked: the limit is {limit} bytes")]
    SecretsTooLarge { limit: usize },
    #[error("the requested range is outside the content")]
    Range,
    #[error("no credentials are configured for the firewall")]
    NoFirewallAuth,
    #[error("the request's head exceeds the limit of {limit} bytes")]
    HeadTooLarge { limit: usize },
    #[error("too many requests are under way: try again")]
    Busy,
}

impl From<InvalidRunId> for Refusal {
    fn from(error: InvalidRunId) -> Self {
        Self::bad(error.to_string())
    }
}

impl Refusal {
    /// A malformed request.
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::BadRequest { reason: reason.into() }
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.parts().0
    }

    /// Its code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.parts().1
    }

    fn parts(&self) -> (u16, &'static str) {
        match self {
            Self::BadRequest { .. } => (400, "BAD_REQUEST"),
            Self::WrongSize { .. } => (400, "WRONG_SIZE"),
            Self::WrongHash => (400, "WRONG_HASH"),
            Self::Unauthenticated => (401, "UNAUTHORIZED"),
            Self::TokenExpired { .. } => (401, "TOKEN_EXPIRED"),
            Self::WrongRole { .. } => (403, "WRONG_ROLE"),
            Self::WrongRun => (403, "WRONG_RUN"),
            Self::WrongGroup | Self::WrongTokenGroup { .. } => (403, "WRONG_GROUP"),
            Self::Superseded { .. } => (403, "ATTEMPT_SUPERSEDED"),
            Self::UrlExpired => (403, "URL_EXPIRED"),
            Self::BadSignature => (403, "BAD_SIGNATURE"),
            Self::NotWritable { .. } => (403, "NOT_WRITABLE"),
            // 403 and not 501: runners take 403 as final, and poll.
            Self::NoRealtime => (403, "REALTIME_UNAVAILABLE"),
            Self::NoRoute => (404, "NO_ROUTE"),
            Self::NoJob { .. } | Self::NoSuchPrefix { .. } => (404, "NO_JOB"),
            Self::NoToken { .. } => (404, "NO_TOKEN"),
            Self::NoRunner { .. } => (404, "NO_RUNNER"),
            Self::SeveralRunners { .. } => (409, "SEVERAL_RUNNERS"),
            Self::NotFound { .. } => (404, "NOT_FOUND"),
            Self::NoSession { .. } => (409, "NO_SESSION"),
            Self::Method { .. } => (405, "METHOD_NOT_ALLOWED"),
            Self::Ambiguous { .. } => (409, "AMBIGUOUS"),
            Self::TokenExists { .. } => (409, "TOKEN_EXISTS"),
            Self::Taken => (409, "TAKEN"),
            Self::Ended => (409, "RUN_ENDED"),
            Self::SecretsGone => (409, "SECRETS_GONE"),
            Self::Missing { .. } => (409, "OBJECTS_MISSING"),
            Self::KeyReused => (409, "KEY_REUSED"),
            Self::LengthRequired => (411, "LENGTH_REQUIRED"),
            Self::TooLarge { .. } => (413, "TOO_LARGE"),
            Self::SecretsTooLarge { .. } => (413, "SECRETS_TOO_LARGE"),
            Self::Range => (416, "RANGE"),
            Self::NoFirewallAuth => (424, "NOT_CONFIGURED"),
            Self::HeadTooLarge { .. } => (431, "HEAD_TOO_LARGE"),
            // No 4xx, which clients take as final: the network failed, and a retry may succeed.
            Self::TooSlow => (503, "TOO_SLOW"),
            Self::CutShort => (503, "CUT_SHORT"),
            Self::Busy => (503, "BUSY"),
        }
    }
}
