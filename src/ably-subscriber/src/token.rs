//! Tokens: how they are requested, and when they expire.
//!
//! ```text
//!   callback ── TokenRequest ──▶ rest host: POST /keys/<keyName>/requestToken ──▶ Token
//! ```
//!
//! The signer signs and dates the request. The token's lifetime comes from the server's clock; the local
//! clock only measures how much of it has passed.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::config::Timing;
use crate::dial::Dialer;
use crate::error::ConnectionError;
use crate::host::Host;
use crate::http::Response;
use crate::secret::Secret;
use crate::token_request::TokenRequest;

/// The name of the request in errors.
const WHAT: &str = "a token";

/// A token and when to get the next one.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) secret: Secret,
    /// `None` if the server sent no expiry.
    life: Option<Life>,
}

#[derive(Debug, Clone, Copy)]
struct Life {
    renew: Instant,
    end: Instant,
}

impl Token {
    /// When to renew it, if ever.
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        self.life.map(|life| life.renew)
    }

    /// Whether it has expired.
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.life.is_some_and(|life| now >= life.end)
    }
}

/// Gets a token request from the callback, and exchanges it for a token at one of the hosts.
pub(crate) fn fetch(dialer: &Dialer) -> Result<Token, ConnectionError> {
    let request =
        (dialer.config.fetch)().map_err(|source| ConnectionError::TokenRequest { source })?;
    dialer.on_each(&dialer.config.hosts.for_rest(), |host| exchange(dialer, host, &request))
}

fn exchange(
    dialer: &Dialer,
    host: &Host,
    request: &TokenRequest,
) -> Result<Token, ConnectionError> {
    let (mut pipe, _) = dialer.connect(host)?;
    let key = utf8_percent_encode(&request.key_name, NON_ALPHANUMERIC);
    let mut message = format!(
        "POST /keys/{key}/requestToken HTTP/1.1\r\nHost: {host}\r\nX-Ably-Version: 5\r\n\
         Ably-Agent: {}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        crate::dial::AGENT,
        request.json.len()
    )
    .into_bytes();
    message.extend_from_slice(&request.json);
    let failed = |source| ConnectionError::Http { host: host.to_string(), what: WHAT, source };
    let answer = Response::to(&mut pipe, &message).map_err(failed)?;
    let status = answer.status;
    let body = answer.body(&mut pipe).map_err(failed)?;
    pipe.end();
    if !(200..300).contains(&status) {
        return Err(refusal(host, status, &body, &request.mac));
    }
    read(&body, Instant::now(), &dialer.config.timing)
        // What serde says about it may hold a piece of it.
        .ok_or_else(|| failed(std::io::Error::other("the answer is no token")))
}

fn read(body: &[u8], now: Instant, timing: &Timing) -> Option<Token> {
    #[derive(Deserialize)]
    struct Details {
        token: String,
        issued: Option<u64>,
        expires: Option<u64>,
    }
    let details: Details = serde_json::from_slice(body).ok()?;
    // They come in a header-like place: in a URL.
    let is_plain = !details.token.is_empty() && details.token.chars().all(|c| c.is_ascii_graphic());
    let life = match (details.issued, details.expires) {
        (Some(issued), Some(expires)) => {
            Some(Duration::from_millis(expires.saturating_sub(issued)))
        }
        _ => None,
    };
    let life = life.and_then(|life| {
        let margin = timing.renew_before.min(life / 2);
        // A life of no length would renew without a pause.
        let renew = now.checked_add((life - margin).max(timing.first_wait))?;
        Some(Life { renew, end: now.checked_add(life)? })
    });
    is_plain.then(|| Token { secret: Secret::new(details.token), life })
}

fn refusal(host: &Host, status: u16, body: &[u8], mac: &Secret) -> ConnectionError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        error: Remark,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Remark {
        code: u32,
        message: String,
    }
    // The status is what counts; a remark that cannot be read is none.
    let Body { error } = serde_json::from_slice(body).unwrap_or_default();
    let message = crate::error::shortened(&mac.redact(&error.message));
    ConnectionError::Status {
        host: host.to_string(),
        what: WHAT,
        status,
        code: error.code,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(json: &str) -> Option<(Option<Duration>, Option<Duration>)> {
        let now = Instant::now();
        let token = read(json.as_bytes(), now, &Timing::default())?;
        let since = |at: Instant| at - now;
        Some((token.life.map(|life| since(life.renew)), token.life.map(|life| since(life.end))))
    }

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    #[test]
    fn a_long_lived_token_is_renewed_five_minutes_before_it_expires() {
        let times = token(r#"{"token":"t","issued":7000000,"expires":10600000}"#).unwrap();

        assert_eq!(times, (seconds(3300), seconds(3600)));
    }

    #[test]
    fn a_short_lived_token_is_renewed_at_half_its_life() {
        assert_eq!(
            token(r#"{"token":"t","issued":0,"expires":60000}"#).unwrap(),
            (seconds(30), seconds(60))
        );
    }

    #[test]
    fn a_token_that_expires_at_once_is_renewed_after_a_pause() {
        let (renew, end) = token(r#"{"token":"t","issued":9,"expires":3}"#).unwrap();

        assert_eq!((renew, end), (seconds(1), seconds(0)));
    }

    #[test]
    fn a_token_without_an_end_is_good_until_the_server_refuses_it() {
        assert_eq!(token(r#"{"token":"t"}"#).unwrap(), (None, None));
    }

    #[test]
    fn a_response_without_a_token_is_an_error() {
        assert!(token("{}").is_none());
        assert!(token(r#"{"token":""}"#).is_none());
        assert!(token(r#"{"token":"a b"}"#).is_none());
    }

    #[test]
    fn a_malformed_token_request_is_not_shown_in_the_error() {
        let error = TokenRequest::from_json(br#""a-secret-token""#).unwrap_err();

        assert!(!format!("{error:?} {}", crate::error::chain(&error)).contains("secret"));
    }

    #[test]
    fn a_token_request_shows_its_key_s_name_alone() {
        let json = br#"{"keyName":"app.key","mac":"m4c","nonce":"n0nce"}"#;

        let shown = format!("{:?}", TokenRequest::from_json(json).unwrap());

        assert_eq!(shown, r#"TokenRequest { key_name: "app.key", .. }"#);
    }

    #[test]
    fn a_refusal_is_reported_without_the_signature() {
        let host = crate::Hosts::new("h", "h").unwrap();
        let body = br#"{"error":{"code":40101,"message":"bad mac m4c","statusCode":401}}"#;

        let loss = refusal(host.for_rest()[0], 401, body, &Secret::new("m4c".into()));

        assert_eq!(
            loss.to_string(),
            "h answered the request for a token with HTTP 401, code 40101: bad mac ***"
        );
    }
}
