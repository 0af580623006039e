//! The platform's API: JSON in, JSON out, under the run's token.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::HeaderValue;

use crate::{Client, Error, Limits, Result, Retry, Stop};

/// The longest answer that makes sense.
const LONGEST_ANSWER: u64 = 4 << 20;

/// What a request may take.
const LIMITS: Limits =
    Limits { whole: Some(Duration::from_secs(30)), silence: Duration::from_secs(30), redirects: 0 };

/// Who calls whom.
pub struct Identity {
    /// Where the platform is: `https://api.example`.
    pub url: String,
    /// The run's token.
    pub token: String,
    /// What opens a deployment that is protected, if it is.
    pub bypass: Option<String>,
    /// The run's id; a runner's own where there is no run.
    pub run_id: String,
}

/// What calls the platform, as it is told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent in the guest.
    GuestAgent,
    /// The runner on the host, or what belongs to it.
    Runner,
}

/// The platform, as one run sees it.
#[derive(Clone)]
pub struct Platform {
    client: Client,
    url: String,
    /// Those that are the same in each request; the values of secrets are marked as such.
    headers: Vec<(&'static str, HeaderValue)>,
    longest_answer: u64,
}

impl Platform {
    /// Nothing is sent before the first call. Requests end when `stop` is given.
    pub fn new(identity: &Identity, stop: &Stop) -> Result<Self> {
        Self::of(Kind::GuestAgent, identity, LIMITS, stop)
    }

    /// As [`Platform::new`], for any caller and limits.
    pub fn of(kind: Kind, identity: &Identity, limits: Limits, stop: &Stop) -> Result<Self> {
        let client = Client::new(limits, stop);
        let url = identity.url.trim_end_matches('/').to_owned();
        let headers = headers(kind, identity)?;
        Ok(Self { client, url, headers, longest_answer: LONGEST_ANSWER })
    }

    /// The same platform and its connections for somebody else.
    pub fn with(&self, kind: Kind, identity: &Identity) -> Result<Self> {
        let url = identity.url.trim_end_matches('/').to_owned();
        let headers = headers(kind, identity)?;
        Ok(Self { client: self.client.clone(), url, headers, longest_answer: LONGEST_ANSWER })
    }

    /// The same with answers of up to so many bytes.
    #[must_use]
    pub fn with_answers_of(self, longest_answer: u64) -> Self {
        Self { longest_answer, ..self }
    }

    /// POSTs a value and reads the answer, trying again as usual.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.post_again(&Retry::usual(), path, body)
    }

    /// POSTs a value and reads the answer, trying again as `retry` says.
    pub fn post_again<T: DeserializeOwned>(
        &self,
        retry: &Retry,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|source| Error::Encode { call: format!("POST {path}"), source })?;
        retry.run(self.client.stop(), || self.attempt(path, &body))
    }

    /// POSTs bytes that are JSON, once. An answer that lacks what `T` needs counts as a failure
    /// that may pass.
    pub fn attempt<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T> {
        self.attempt_as(&crate::random_uuid(), path, body)
    }

    /// As [`Platform::attempt`], with an id of the request that several attempts may share.
    pub fn attempt_as<T: DeserializeOwned>(&self, id: &str, path: &str, body: &[u8]) -> Result<T> {
        let call = format!("POST {path}");
        let mut headers = self.headers.clone();
        headers.push(("x-client-request-id", header(id)?));
        let url = format!("{}{path}", self.url);
        let answer =
            self.client.post(call.clone(), &url, &headers, body)?.bytes(self.longest_answer)?;
        let text = if answer.is_empty() { b"null" } else { &answer[..] };
        serde_json::from_slice(text)
            .map_err(|source| Error::Answer { call, source: io::Error::other(source) })
    }

    /// Where the platform is, for texts.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The headers that all requests have.
fn headers(kind: Kind, identity: &Identity) -> Result<Vec<(&'static str, HeaderValue)>> {
    let mut authorization = header(&format!("Bearer {}", identity.token))?;
    authorization.set_sensitive(true);
    let kind = match kind {
        Kind::GuestAgent => "guest-agent",
        Kind::Runner => "runner",
    };
    let mut headers = vec![
        ("authorization", authorization),
        ("content-type", HeaderValue::from_static("application/json")),
        ("x-client-version", HeaderValue::from_static(env!("CARGO_PKG_VERSION"))),
        ("x-client-type", HeaderValue::from_static(kind)),
        ("x-client-session-id", header(&identity.run_id)?),
    ];
    if let Some(bypass) = &identity.bypass {
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
            "the run's id or token has characters that no header may have",
        ),
    })
}
