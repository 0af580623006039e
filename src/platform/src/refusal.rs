//! What is wrong with a request: each kind with its HTTP status and its code. The texts go to the
//! client; none holds a token, a URL's signature, or anything that another client sent.

use contract::InvalidRunId;

use crate::RunId;

/// Why a request is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error("bad request: {reason}")]
    BadRequest { reason: String },
    #[error("the body has {found} {unit}, where {expected} were announced")]
    WrongSize { found: u64, expected: u64, unit: &'static str },
    #[error("the content is not what its hash says")]
    WrongHash,
    #[error("the token is missing or not known")]
    Unauthenticated,
    #[error("the token is not for this run")]
    WrongRun,
    #[error("attempt {attempt} was given up, and its token is revoked")]
    Superseded { attempt: u32 },
    #[error("the URL has expired")]
    UrlExpired,
    #[error("the URL's signature is wrong")]
    BadSignature,
    #[error("the job has no storage `{storage}` that it may write")]
    NotWritable { storage: String },
    #[error("there is no push here: poll")]
    NoRealtime,
    #[error("nothing is served at this path")]
    NoRoute,
    #[error("no job {run}")]
    NoJob { run: RunId },
    #[error("no job `{prefix}`")]
    NoSuchPrefix { prefix: String },
    #[error("`{prefix}` is the beginning of several jobs' ids")]
    Ambiguous { prefix: String },
    #[error("no {what}")]
    NotFound { what: String },
    #[error(
        "job {run} kept no session to go on from: `runner job artifact get` copies its artifacts"
    )]
    NoSession { run: RunId },
    #[error("this path takes {allowed}")]
    Method { allowed: &'static str },
    #[error("the body did not come in time")]
    TooSlow,
    #[error("the body ended too soon")]
    CutShort,
    #[error("somebody else has the job")]
    Taken,
    #[error("the job has ended")]
    Ended,
    #[error("the job's secrets, which would have to be hidden in this, are gone")]
    SecretsGone,
    #[error("not uploaded yet: {what}")]
    Missing { what: &'static str },
    #[error("the key was used for a different job")]
    KeyReused,
    #[error("the body needs a Content-Length")]
    LengthRequired,
    #[error("more than the limit of {limit} {unit}")]
    TooLarge { limit: u64, unit: &'static str },
    #[error("the secrets are more than can be hidden: {limit} bytes")]
    SecretsTooLarge { limit: usize },
    #[error("the requested range is outside of the content")]
    Range,
    #[error("no credentials are configured for the firewall")]
    NoFirewallAuth,
    #[error("the request's head is larger than {limit} bytes")]
    HeadTooLarge { limit: usize },
    #[error("too much is under way: try again")]
    Busy,
}

impl From<InvalidRunId> for Refusal {
    fn from(error: InvalidRunId) -> Self {
        Self::bad(error.to_string())
    }
}

impl Refusal {
    /// A request that does not make sense.
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::BadRequest { reason: reason.into() }
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.parts().0
    }

    /// Its name for programs.
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
            Self::WrongRun => (403, "WRONG_RUN"),
            Self::Superseded { .. } => (403, "ATTEMPT_SUPERSEDED"),
            Self::UrlExpired => (403, "URL_EXPIRED"),
            Self::BadSignature => (403, "BAD_SIGNATURE"),
            Self::NotWritable { .. } => (403, "NOT_WRITABLE"),
            // 403 and not 501: to a runner that means "final", and it goes on polling.
            Self::NoRealtime => (403, "REALTIME_UNAVAILABLE"),
            Self::NoRoute => (404, "NO_ROUTE"),
            Self::NoJob { .. } | Self::NoSuchPrefix { .. } => (404, "NO_JOB"),
            Self::NotFound { .. } => (404, "NOT_FOUND"),
            Self::NoSession { .. } => (409, "NO_SESSION"),
            Self::Method { .. } => (405, "METHOD_NOT_ALLOWED"),
            Self::Ambiguous { .. } => (409, "AMBIGUOUS"),
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
            // No 4xx, which clients take as final: it is the network's doing, and the next try may
            // do better.
            Self::TooSlow => (503, "TOO_SLOW"),
            Self::CutShort => (503, "CUT_SHORT"),
            Self::Busy => (503, "BUSY"),
        }
    }
}
