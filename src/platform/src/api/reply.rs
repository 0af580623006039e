//! What requests are answered, and the server's refusals in the platform's words.

use base::error::chain;
use http_server::Response;
use serde::Serialize;
use serde_json::json;

use crate::{Error, Refusal};

/// 200 and a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    Response::json(200, value).unwrap_or_else(|source| error(&Error::BadRow { source }))
}

/// The reply to a failed request. The client learns what is wrong with its request; what is wrong on
/// this side is logged.
pub(super) fn error(error: &Error) -> Response {
    let (status, code, message) = match error {
        Error::Refused(refusal) => (refusal.status(), refusal.code(), refusal.to_string()),
        Error::Full { .. } => (507, "NO_ROOM", "no room left on the disk".to_owned()),
        Error::Unavailable { .. } => {
            (503, "UNAVAILABLE", "the platform's database cannot be used now".to_owned())
        }
        // Another platform may have it.
        Error::UnknownKey { .. } => {
            (503, "UNAVAILABLE", "the platform lacks the key of the job's secrets".to_owned())
        }
        Error::Store { source } if source.is_transient() => {
            (503, "STORE_UNAVAILABLE", "the object store cannot be used now: try again".to_owned())
        }
        Error::StoreRead { .. } => {
            (503, "STORE_UNAVAILABLE", "the object store cannot be used now: try again".to_owned())
        }
        Error::Stopped => (503, "STOPPED", "the platform is stopping".to_owned()),
        _ => (500, "INTERNAL", "the platform failed: see its log".to_owned()),
    };
    match error {
        Error::Refused(_) | Error::Stopped => log::debug!("refused; code={code}"),
        _ => log::error!("a request failed; error={}", chain(error)),
    }
    let body = json!({"error": {"message": message, "code": code}}).to_string();
    let response = Response::bytes(status, "application/json", body.into_bytes());
    if status == 503 { response.with("Retry-After", "1") } else { response }
}

impl From<http_server::Refusal> for Error {
    fn from(refusal: http_server::Refusal) -> Self {
        use http_server::Refusal as Theirs;

        let refusal = match refusal {
            Theirs::Stopping => return Self::Stopped,
            Theirs::BadRequest { reason } => Refusal::BadRequest { reason },
            Theirs::HeadTooLarge { limit } => Refusal::HeadTooLarge { limit },
            Theirs::UnknownCoding => Refusal::LengthRequired,
            Theirs::TooLarge { limit } => Refusal::TooLarge { limit, unit: "bytes" },
            Theirs::TooSlow => Refusal::TooSlow,
            Theirs::CutShort => Refusal::CutShort,
            Theirs::Busy => Refusal::Busy,
            other => Refusal::bad(other.to_string()),
        };
        Self::Refused(refusal)
    }
}
