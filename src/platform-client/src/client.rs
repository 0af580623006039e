//! Calls of the platform's API: JSON requests and answers, authorized with the run's token.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::HeaderValue;

use crate::{Error, HttpClient, RequestCancellation, RequestLimits, Result, RetryPolicy};

/// The longest answer that is accepted, unless set otherwise.
const MAX_ANSWER: u64 = 4 << 20;

/// The limits of a request from the guest.
const LIMITS: RequestLimits = RequestLimits::within(Duration::from_secs(30));

/// The platform's URL and the caller's token.
pub struct PlatformCredentials {
    /// The platform's base URL: `https://api.example`.
    pub url: String,
    /// The run's token.
    pub token: String,
    /// The bypass secret of a protected Vercel deployment.
    pub bypass: Option<String>,
    /// The `x-client-session-id` header: the run's ID, or the runner's own outside of a run.
    pub client_session: String,
}

/// The program that calls, as the `x-client-type` header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientType {
    /// The agent in the guest.
    GuestAgent,
    /// The runner on the host.
    Runner,
}

/// A client of the platform for one caller.
#[derive(Clone)]
pub struct PlatformClient {
    client: HttpClient,
    url: String,
    /// The headers of every request. Secret values are marked as sensitive.
    headers: Vec<(&'static str, HeaderValue)>,
    max_answer: u64,
}

impl PlatformClient {
    /// A client for guest-agent. Sends nothing yet. `stop` ends its requests.
    pub fn new(credentials: &PlatformCredentials, stop: &RequestCancellation) -> Result<Self> {
        Self::of(ClientType::GuestAgent, credentials, LIMITS, stop)
    }

    /// As [`PlatformClient::new`], for any program and limits.
    pub fn of(
        kind: ClientType,
        credentials: &PlatformCredentials,
        limits: RequestLimits,
        stop: &RequestCancellation,
    ) -> Result<Self> {
        let client = HttpClient::new(limits, stop);
        let url = credentials.url.trim_end_matches('/').to_owned();
        let headers = headers(kind, credentials)?;
        Ok(Self { client, url, headers, max_answer: MAX_ANSWER })
    }

    /// A client for another caller that shares this one's connections.
    pub fn with(&self, kind: ClientType, credentials: &PlatformCredentials) -> Result<Self> {
        let url = credentials.url.trim_end_matches('/').to_owned();
        let headers = headers(kind, credentials)?;
        Ok(Self { client: self.client.clone(), url, headers, max_answer: MAX_ANSWER })
    }

    /// Accepts answers of up to `max_answer` bytes.
    #[must_use]
    pub fn with_answers_of(self, max_answer: u64) -> Self {
        Self { max_answer, ..self }
    }

    /// POSTs a value and parses the answer. Retries as [`RetryPolicy::usual`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.post_again(&RetryPolicy::usual(), path, body)
    }

    /// POSTs a value and parses the answer. Retries as `retry`.
    pub fn post_again<T: DeserializeOwned>(
        &self,
        retry: &RetryPolicy,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|source| Error::Encode { call: format!("POST {path}"), source })?;
        retry.run(self.client.stop(), || self.attempt(path, &body))
    }

    /// POSTs a JSON body once. An answer that does not parse as `T` is a retriable error.
    pub fn attempt<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T> {
        self.attempt_as(&crate::random_request_id(), path, body)
    }

    /// As [`PlatformClient::attempt`], with a request id that several attempts may share.
    pub fn attempt_as<T: DeserializeOwned>(&self, id: &str, path: &str, body: &[u8]) -> Result<T> {
        let call = format!("POST {path}");
        let mut headers = self.headers.clone();
        headers.push(("x-client-request-id", header(id)?));
        let url = format!("{}{path}", self.url);
        let answer =
            self.client.post(call.clone(), &url, &headers, body)?.bytes(self.max_answer)?;
        let text = if answer.is_empty() { b"null" } else { &answer[..] };
        serde_json::from_slice(text)
            .map_err(|source| Error::Answer { call, source: io::Error::other(source) })
    }

    /// The platform's base URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The headers of every request.
fn headers(
    kind: ClientType,
    credentials: &PlatformCredentials,
) -> Result<Vec<(&'static str, HeaderValue)>> {
    let mut authorization = header(&format!("Bearer {}", credentials.token))?;
    authorization.set_sensitive(true);
    let kind = match kind {
        ClientType::GuestAgent => "guest-agent",
        ClientType::Runner => "runner",
    };
    let mut headers = vec![
        ("authorization", authorization),
        ("content-type", HeaderValue::from_static("application/json")),
        ("x-client-version", HeaderValue::from_static(env!("CARGO_PKG_VERSION"))),
        ("x-client-type", HeaderValue::from_static(kind)),
        ("x-client-session-id", header(&credentials.client_session)?),
    ];
    if let Some(bypass) = &credentials.bypass {
        let mut value = header(bypass)?;
        value.set_sensitive(true);
        headers.push(("x-vercel-protection-bypass", value));
    }
    Ok(headers)
}

fn header(value: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(value).map_err(|_| Error::Transport {
        call: "make a request".to_owned(),
        source: io::Error::new(
            io::ErrorKind::InvalidInput,
            "the run's id or token has characters that are invalid in a header",
        ),
    })
}
