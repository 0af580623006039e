//! Calls of the platform's API: JSON requests and answers, authorized with the run's token.

use std::io;
use std::time::{Duration, Instant};

use base::error::chain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::HeaderValue;

use crate::{
    Error, HttpClient, PlatformAddresses, RequestCancellation, RequestLimits, Result, RetryPolicy,
};

/// The longest answer that is accepted, unless set otherwise.
const MAX_ANSWER: u64 = 4 << 20;

/// The limits of a request from the guest.
const LIMITS: RequestLimits = RequestLimits::within(Duration::from_secs(30));

/// The platform's addresses and the caller's token.
pub struct PlatformCredentials {
    /// Where the platform is.
    pub addresses: PlatformAddresses,
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
    addresses: PlatformAddresses,
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
        let addresses = credentials.addresses.clone();
        let client = HttpClient::of(&addresses, limits, stop);
        let headers = headers(kind, credentials)?;
        Ok(Self { client, addresses, headers, max_answer: MAX_ANSWER })
    }

    /// A client for another caller that shares this one's connections.
    pub fn with(&self, kind: ClientType, credentials: &PlatformCredentials) -> Result<Self> {
        let (client, addresses) = (self.client.clone(), credentials.addresses.clone());
        let headers = headers(kind, credentials)?;
        Ok(Self { client, addresses, headers, max_answer: MAX_ANSWER })
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
    ///
    /// An attempt goes to each address until one answers. So the platform may carry it out twice: each call of the
    /// contract may be repeated.
    pub fn attempt_as<T: DeserializeOwned>(&self, id: &str, path: &str, body: &[u8]) -> Result<T> {
        let call = format!("POST {path}");
        let mut headers = self.headers.clone();
        headers.push(("x-client-request-id", header(id)?));
        let answer = self.exchange(&call, path, &headers, body)?;
        let text = if answer.is_empty() { b"null" } else { &answer[..] };
        serde_json::from_slice(text)
            .map_err(|source| Error::Answer { call, source: io::Error::other(source) })
    }

    fn exchange(
        &self,
        call: &str,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
        body: &[u8],
    ) -> Result<Vec<u8>> {
        let mut failed = None;
        for index in self.addresses.order(Instant::now()) {
            let Some(base) = self.addresses.urls().get(index) else { continue };
            let url = format!("{base}{path}");
            let sent = self.client.post(call.to_owned(), &url, headers, body);
            match sent.and_then(|answer| answer.bytes(self.max_answer)) {
                Err(error) if error.is_elsewhere() => {
                    if self.client.stop().is_cancelled() {
                        return Err(error);
                    }
                    log::debug!("the platform does not answer; url={base} error={}", chain(&error));
                    self.addresses.record(index, false, Instant::now());
                    failed = Some(error);
                }
                done => {
                    self.addresses.record(index, true, Instant::now());
                    return done;
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::Transport {
            call: call.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "the platform has no address"),
        }))
    }

    /// Where the platform is.
    pub fn addresses(&self) -> &PlatformAddresses {
        &self.addresses
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
