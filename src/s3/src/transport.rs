//! Requests over HTTP, with their limits. A request is a presigned URL.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use platform_client::{SystemResolver, without_url};
use rustls::crypto::ring;
use rusty_s3::Method;
use ureq::http::{HeaderMap, Request};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::unversioned::transport::{Connector as _, RustlsConnector, TcpConnector};
use ureq::{Agent, BodyReader};

use crate::{Error, Result, xml};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time without a byte sent or received: a copy of 5 GiB within the store takes long.
const SILENCE: Duration = Duration::from_secs(120);

/// The time of a whole request, with the reply's body.
const WHOLE: Duration = Duration::from_secs(10 * 60);

/// How long an idle connection stays open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest reply in XML.
const LARGEST_REPLY: u64 = 4 << 20;

/// A request, which [`Transport::send`] may send twice.
pub(crate) struct Call<'a> {
    pub(crate) operation: &'static str,
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    body: ureq::Body,
}

#[derive(Clone)]
pub(crate) struct Transport {
    agent: Agent,
    pub(crate) host: String,
    pub(crate) bucket: String,
}

impl Transport {
    pub(crate) fn new(host: String, bucket: String, ca_file: Option<&Path>) -> Result<Self> {
        let roots = ca_file.map_or(Ok(RootCerts::PlatformVerifier), roots_with)?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(roots)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(WHOLE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .max_idle_age(IDLE_TIMEOUT)
            .user_agent("")
            .build();
        let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
        Ok(Self { agent: Agent::with_parts(config, connector, SystemResolver), host, bucket })
    }

    /// Sends a request, again if its connection broke: an idle one may have been closed meanwhile. Replies
    /// with an error become one, except 404 of an object and 412, which are answers.
    pub(crate) fn send(&self, call: &Call<'_>) -> Result<Reply> {
        let sent = self.once(call).or_else(|error| match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused => Err(error),
            _ => self.once(call),
        });
        let operation = call.operation;
        let fail = |source| Error::Unreachable { operation, host: self.host.clone(), source };
        let reply = sent.map_err(fail)?;
        if (200..300).contains(&reply.status) {
            return Ok(reply);
        }
        self.refused(operation, reply)
    }

    fn once(&self, call: &Call<'_>) -> io::Result<Reply> {
        let mut request = Request::builder().method(call.method.to_str()).uri(&call.url);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        let has_body = matches!(call.method, Method::Put | Method::Post);
        let malformed = |_| io::Error::new(io::ErrorKind::InvalidInput, "a malformed request");
        let answer = if has_body {
            self.agent.run(request.body(call.body).map_err(malformed)?)
        } else {
            self.agent.run(request.body(()).map_err(malformed)?)
        };
        let (parts, body) = answer.map_err(without_url)?.into_parts();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn refused(&self, operation: &'static str, reply: Reply) -> Result<Reply> {
        let status = reply.status;
        let host = self.host.clone();
        // The reply to HEAD has no body, so no code.
        let (text, reply) = match self.text(operation, reply) {
            Ok((text, reply)) => (text, reply),
            Err(error) if status < 500 => return Err(error),
            Err(_) => {
                return Err(Error::Failed { operation, host, status, code: String::new() });
            }
        };
        let code = xml::code(&text);
        match (status, code.as_str()) {
            (404, "NoSuchBucket") => Err(Error::NoBucket { host, bucket: self.bucket.clone() }),
            // `NoSuchUpload` is the answer to a repeated end of an upload.
            (404, "" | "NoSuchKey" | "NotFound" | "NoSuchUpload") | (412, _) => Ok(reply),
            (401 | 403, _) => Err(Error::Denied { operation, host, status, code }),
            (408 | 429 | 500.., _) => Err(Error::Failed { operation, host, status, code }),
            _ => Err(Error::Refused { operation, host, status, code }),
        }
    }

    /// The body of a reply in XML, and the reply without it.
    pub(crate) fn text(&self, operation: &'static str, reply: Reply) -> Result<(String, Reply)> {
        let Reply { status, headers, body } = reply;
        let mut bytes = Vec::new();
        let read = self.bounded(body).take(LARGEST_REPLY + 1).read_to_end(&mut bytes);
        let host = self.host.clone();
        read.map_err(|source| Error::Unreachable { operation, host: host.clone(), source })?;
        let malformed = |reason| Error::BadReply { operation, host, reason };
        if bytes.len() as u64 > LARGEST_REPLY {
            return Err(malformed("it is too long"));
        }
        let text = String::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
        let body = ureq::Body::builder().data(Vec::new());
        Ok((text, Reply { status, headers, body }))
    }

    pub(crate) fn reader(&self, reply: Reply) -> Bounded {
        self.bounded(reply.body)
    }

    fn bounded(&self, body: ureq::Body) -> Bounded {
        Bounded(body.into_reader())
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A body whose errors hold no URL.
pub(crate) struct Bounded(BodyReader<'static>);

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| without_url(ureq::Error::Io(error)))
    }
}

/// The system's authorities and those of a file.
fn roots_with(path: &Path) -> Result<RootCerts> {
    let fail = |source| Error::ReadFile { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(fail)?;
    let own = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let mut all: Vec<Certificate<'static>> = own.collect();
    if all.is_empty() {
        return Err(Error::NoCertificate { path: path.to_owned() });
    }
    // A system without roots, or with a broken one among them, has the file's.
    let system = rustls_native_certs::load_native_certs().certs;
    all.extend(system.iter().map(|der| Certificate::from_der(der).to_owned()));
    Ok(RootCerts::Specific(Arc::new(all)))
}
