//! Why a call of the REST API fails, as its reply says it: `{"code": 404, "message": "…"}`.

use std::borrow::Cow;

use base::error::chain;
use http_server::{Refusal, Response};
use serde_json::json;

use crate::key::KeyError;
use crate::launcher::LaunchError;
use crate::sandboxes::Error;

/// A failed call.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) message: Cow<'static, str>,
    /// Clients repeat some calls by themselves. This says whether that helps.
    retry: Option<Retry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Soon,
    InVain,
}

impl Refused {
    pub(crate) fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry: None }
    }

    /// A request that makes no sense, or asks for what this server does not have.
    pub(crate) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, message)
    }

    /// What this server does not do.
    pub(crate) fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(501, message)
    }

    /// What went wrong in the server: the reason is for its log.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        log::error!("a call failed; error={}", chain(error));
        Self::new(500, error.to_string())
    }

    pub(crate) fn response(&self) -> Response {
        let body = json!({"code": self.status, "message": self.message});
        let body = body.to_string().into_bytes();
        let response = Response::bytes(self.status, "application/json", body);
        match self.retry {
            Some(Retry::Soon) => response.with("Retry-After", "1"),
            Some(Retry::InVain) => response.with("Should-Retry", "false"),
            None => response,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::NotFound { .. } | Error::NoTemplate { .. } => 404,
            Error::Launch(LaunchError::UnknownTemplate { .. }) => 404,
            Error::Paused { .. } | Error::Pausing { .. } => 409,
            Error::NoTimeout | Error::TimeoutTooLong { .. } | Error::BadToken => 400,
            Error::Launch(LaunchError::Unsupported { .. }) => 400,
            Error::TooMany(_) => 429,
            Error::Busy { .. } | Error::Stopping => 503,
            Error::Launch(LaunchError::NoRoom { .. } | LaunchError::Stopping) => 503,
            _ => return Self::internal(&error),
        };
        let retry = match status {
            429 => Some(Retry::InVain),
            503 => Some(Retry::Soon),
            _ => None,
        };
        Self { status, message: error.to_string().into(), retry }
    }
}

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        log::error!("cannot check an API key; error={}", chain(&error));
        Self::new(500, "the server cannot read its API keys")
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let status = refusal.status();
        let retry = (status == 503).then_some(Retry::Soon);
        Self { status, message: refusal.to_string().into(), retry }
    }
}
