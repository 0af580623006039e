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
    /// The run's id.
    pub run_id: String,
}

/// The platform, as one run sees it.
#[derive(Clone)]
pub struct Platform {
    client: Client,
    url: String,
    /// Those that are the same in each request; the values of secrets are marked as such.
    headers: Vec<(&'static str, HeaderValue)>,
}

impl Platform {
    /// Nothing is sent before the first call. Requests end when `stop` is given.
    pub fn new(identity: &Identity, stop: &Stop) -> Result<Self> {
        let mut authorization = header(&format!("Bearer {}", identity.token))?;
        authorization.set_sensitive(true);
        let mut headers = vec![
            ("authorization", authorization),
            ("content-type", HeaderValue::from_static("application/json")),
            ("x-client-version", HeaderValue::from_static(env!("CARGO_PKG_VERSION"))),
            ("x-client-type", HeaderValue::from_static("guest-agent")),
            ("x-client-session-id", header(&identity.run_id)?),
        ];
        if let Some(bypass) = &identity.bypass {
            let mut value = header(bypass)?;
            value.set_sensitive(true);
            headers.push(("x-vercel-protection-bypass", value));
        }
        let url = identity.url.trim_end_matches('/').to_owned();
        Ok(Self { client: Client::new(LIMITS, stop), url, headers })
    }

    /// POSTs a value and reads the answer, trying again as usual.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|source| Error::Encode { call: format!("POST {path}"), source })?;
        Retry::usual().run(self.client.stop(), || self.attempt(path, &body))
    }

    /// POSTs bytes that are JSON, once. An answer that lacks what `T` needs counts as a failure
    /// that may pass.
    pub fn attempt<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T> {
        let call = format!("POST {path}");
        let mut headers = self.headers.clone();
        headers.push(("x-client-request-id", header(&crate::random_uuid())?));
        let url = format!("{}{path}", self.url);
        let answer = self.client.post(call.clone(), &url, &headers, body)?.bytes(LONGEST_ANSWER)?;
        let text = if answer.is_empty() { b"null" } else { &answer[..] };
        serde_json::from_slice(text)
            .map_err(|source| Error::Answer { call, source: io::Error::other(source) })
    }

    /// Where the platform is, for texts.
    pub fn url(&self) -> &str {
        &self.url
    }
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
