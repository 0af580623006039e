//! A blocking HTTP client with limits. TLS uses the system's certificate roots, and others if told so.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::http::{HeaderMap, HeaderValue, Uri, header};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::{Connector as _, RustlsConnector, TcpConnector};
use ureq::{Agent, SendBody};

use crate::error::without_url;
use crate::resolver::SystemResolver;
use crate::{Error, PlatformAddresses, RequestCancellation, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an error answer's body is read for its message.
const MAX_ERROR_BODY: u64 = 64 << 10;

/// How long an idle connection stays open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// The total time, including the answer's body. `None`: no limit while bytes arrive.
    pub whole: Option<Duration>,
    /// The time without a byte sent or received.
    pub silence: Duration,
    /// How many redirects are followed.
    pub redirects: u32,
}

impl RequestLimits {
    /// A request that follows no redirect and takes at most `time`.
    pub const fn within(time: Duration) -> Self {
        Self { whole: Some(time), silence: time, redirects: 0 }
    }
}

/// Makes HTTP requests. Threads may share it and make requests concurrently.
#[derive(Clone)]
pub struct HttpClient {
    agent: Agent,
    stop: RequestCancellation,
}

/// A successful answer whose body is not read yet.
pub struct HttpResponse {
    /// A 2xx status.
    pub status: u16,
    headers: HeaderMap,
    body: ureq::Body,
    call: String,
}

impl HttpClient {
    /// A client with these limits. `stop` ends its requests.
    pub fn new(limits: RequestLimits, stop: &RequestCancellation) -> Self {
        Self::trusting(RootCerts::PlatformVerifier, limits, stop)
    }

    /// As [`HttpClient::new`], with the certificate authorities of a platform.
    pub fn of(
        platform: &PlatformAddresses,
        limits: RequestLimits,
        stop: &RequestCancellation,
    ) -> Self {
        Self::trusting(platform.roots(), limits, stop)
    }

    fn trusting(roots: RootCerts, limits: RequestLimits, stop: &RequestCancellation) -> Self {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(roots)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // Traffic of the guest is intercepted transparently, without a configured proxy.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(limits.redirects)
            .max_redirects_will_error(limits.redirects > 0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(limits.whole)
            .timeout_per_read(Some(limits.silence))
            .timeout_per_write(Some(limits.silence))
            .max_idle_age(IDLE_TIMEOUT)
            .user_agent("")
            .build();
        let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config, connector, SystemResolver);
        stop.attach(&agent);
        Self { agent, stop: stop.clone() }
    }

    /// GET. The URL may hold a secret, so errors name only its host.
    pub fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<HttpResponse> {
        let call = format!("GET from {}", host_of(url));
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.finish(call, request.call())
    }

    /// PUT of a file's next `length` bytes. The URL may hold a secret, so errors name only its host.
    pub fn put(&self, url: &str, kind: &str, file: &File, length: u64) -> Result<()> {
        let call = format!("PUT to {}", host_of(url));
        let mut body = file.take(length);
        let request = self
            .agent
            .put(url)
            .config()
            .timeout_global(Some(upload_limit(length)))
            .build()
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONTENT_LENGTH, length);
        let answer = self.finish(call, request.send(SendBody::from_reader(&mut body)))?;
        answer.bytes(MAX_ERROR_BODY).map(drop)
    }

    /// POST. Errors name the request by `call`.
    pub(crate) fn post(
        &self,
        call: String,
        url: &str,
        headers: &[(&'static str, HeaderValue)],
        body: &[u8],
    ) -> Result<HttpResponse> {
        let mut request = self.agent.post(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.finish(call, request.send(body))
    }

    /// The signal that ends this client's requests.
    pub fn stop(&self) -> &RequestCancellation {
        &self.stop
    }

    fn finish(
        &self,
        call: String,
        sent: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<HttpResponse> {
        let response = match sent {
            Ok(response) => response,
            Err(_) if self.stop.is_cancelled() => return Err(Error::Stopped { call }),
            Err(error) => return Err(Error::Transport { call, source: without_url(error) }),
        };
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        let answer = HttpResponse { status, headers: parts.headers, body, call };
        if parts.status.is_success() { Ok(answer) } else { Err(answer.into_error()) }
    }
}

impl HttpResponse {
    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as a stream. Its errors hold no URL.
    pub fn into_reader(self) -> impl Read + Send {
        Body(self.body.into_reader())
    }

    /// The whole body. More than `max` bytes are an error.
    pub fn bytes(self, max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut body = Body(self.body.into_reader()).take(max + 1);
        if let Err(source) = body.read_to_end(&mut bytes) {
            return Err(Error::Transport { call: self.call, source });
        }
        if bytes.len() as u64 > max {
            let source = io::Error::other(format!("it is longer than {max} bytes"));
            return Err(Error::Answer { call: self.call, source });
        }
        Ok(bytes)
    }

    fn into_error(self) -> Error {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct ErrorBody {
            error: Detail,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Detail {
            message: String,
        }
        let retry_after = self.header("retry-after").and_then(crate::retry::parse_retry_after);
        let (call, status) = (self.call.clone(), self.status);
        // The message is optional: without one the status says enough.
        let body = self.bytes(MAX_ERROR_BODY).unwrap_or_default();
        let body: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
        let message = body.error.message.chars().take(500).collect();
        Error::Status { call, status, message, retry_after }
    }
}

/// A body whose errors hold no URL.
struct Body(ureq::BodyReader<'static>);

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| without_url(ureq::Error::Io(error)))
    }
}

/// One minute, and one more for each 100 MiB.
fn upload_limit(length: u64) -> Duration {
    Duration::from_secs(60 * (length / (100 << 20) + 1))
}

/// The name of a URL in error texts.
fn host_of(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    uri.as_ref().and_then(Uri::host).unwrap_or("an unusable URL").to_owned()
}
