//! Objects of a bucket.

use std::fmt;
use std::io::Read;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rusty_s3::{Method, UrlStyle, signing};
use sha2::{Digest, Sha256};
use url::Url;

use crate::transport::{Call, Reply, Transport};
use crate::{Config, Credentials, Error, Result, Style, xml};

/// For how long the client's own requests are valid: longer than clocks are apart.
const OWN_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A bucket, for all threads.
#[derive(Clone)]
pub struct Bucket {
    pub(crate) transport: Transport,
    urls: rusty_s3::Bucket,
    credentials: Credentials,
}

/// The size and the identity of an object's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// In bytes.
    pub size: u64,
    /// The ETag, with its quotes.
    pub etag: String,
}

/// An object's content.
pub struct Object {
    /// In bytes. [`Object::reader`] ends earlier only with an error.
    pub size: u64,
    /// The content.
    pub reader: Box<dyn Read + Send>,
}

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// What a request has besides its method and its key.
#[derive(Default)]
pub(crate) struct More<'a> {
    /// Sorted.
    pub(crate) query: &'a [(&'a str, &'a str)],
    /// Sorted, with names in lower case.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bucket").field("name", &self.urls.name()).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Sends nothing yet.
    pub fn new(config: Config) -> Result<Self> {
        let bad = |reason| Error::BadEndpoint { endpoint: shown(&config.endpoint), reason };
        let endpoint: Url = config.endpoint.parse().map_err(|_| bad("it is malformed"))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(bad("it is not http or https"));
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(bad("it has credentials, which belong in a file"));
        }
        if endpoint.query().is_some() || endpoint.fragment().is_some() || endpoint.path() != "/" {
            return Err(bad("it has more than a host and a port"));
        }
        check_name("the bucket's name", &config.bucket)?;
        check_name("the region", &config.region)?;
        let style = match config.style {
            Style::Path => UrlStyle::Path,
            Style::VirtualHost => UrlStyle::VirtualHost,
        };
        let host = endpoint.host_str().unwrap_or_default().to_owned();
        let bucket = config.bucket.clone();
        let urls = rusty_s3::Bucket::new(endpoint, style, config.bucket, config.region.clone());
        let urls = urls.map_err(|_| Error::BadEndpoint {
            endpoint: shown(&config.endpoint),
            reason: "the bucket's name does not fit into it",
        })?;
        let transport = Transport::new(host, bucket, config.ca_file.as_deref())?;
        Ok(Self { transport, urls, credentials: config.credentials })
    }

    /// Scheme, host and port of all URLs.
    #[must_use]
    pub fn origin(&self) -> String {
        self.urls.base_url().origin().ascii_serialization()
    }

    /// A request that others may make until it expires: the URL is a secret. The request must have
    /// `headers` with these values; their names are in lower case and sorted.
    #[must_use]
    pub fn presign(
        &self,
        method: Method,
        key: &str,
        headers: &[(&str, &str)],
        lifetime: Duration,
    ) -> String {
        self.sign((method, key), &[], headers, lifetime)
    }

    /// What an object is, if it exists.
    pub fn stat(&self, key: &str) -> Result<Option<Stat>> {
        let reply = self.ask("look for an object", (Method::Head, key), More::default())?;
        if reply.status != 200 {
            return Ok(None);
        }
        let malformed = |reason| self.malformed("look for an object", reason);
        let size = reply.header("content-length").and_then(|text| text.parse().ok());
        let etag = reply.header("etag").map(str::to_owned);
        Ok(Some(Stat {
            size: size.ok_or_else(|| malformed("it has no size"))?,
            etag: etag.ok_or_else(|| malformed("it has no ETag"))?,
        }))
    }

    /// An object's content, if it exists.
    pub fn get(&self, key: &str) -> Result<Option<Object>> {
        let reply = self.ask("read an object", (Method::Get, key), More::default())?;
        if reply.status != 200 {
            return Ok(None);
        }
        let size = reply.header("content-length").and_then(|text| text.parse().ok());
        let size = size.ok_or_else(|| self.malformed("read an object", "it has no size"))?;
        Ok(Some(Object { size, reader: Box::new(self.transport.reader(reply)) }))
    }

    /// Writes an object. The store checks its SHA-256.
    pub fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        let digest = STANDARD.encode(Sha256::digest(content));
        let headers = [("x-amz-checksum-sha256", digest.as_str())];
        let more = More { headers: &headers, body: content, ..More::default() };
        self.ask("write an object", (Method::Put, key), more).map(drop)
    }

    /// Copies an object within the store, if it exists and has this ETag. Whether it did.
    pub fn copy(&self, from: &str, etag: &str, to: &str) -> Result<bool> {
        const OPERATION: &str = "copy an object";
        let source = format!("/{}/{from}", self.urls.name());
        let headers = [("x-amz-copy-source", &*source), ("x-amz-copy-source-if-match", etag)];
        let reply =
            self.ask(OPERATION, (Method::Put, to), More { headers: &headers, ..More::default() })?;
        if reply.status != 200 {
            return Ok(false);
        }
        // The status is sent before the copy is made.
        let (text, _) = self.transport.text(OPERATION, reply)?;
        self.done(OPERATION, &text).map(|()| true)
    }

    /// Removes an object. An absent one is not an error.
    pub fn remove(&self, key: &str) -> Result<()> {
        self.ask("remove an object", (Method::Delete, key), More::default()).map(drop)
    }

    /// The first objects whose keys begin with `prefix` and come after `after`, at most 1,000. An empty list
    /// is the end.
    pub fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        const OPERATION: &str = "list objects";
        let query = [("list-type", "2"), ("prefix", prefix), ("start-after", after)];
        let reply =
            self.ask(OPERATION, (Method::Get, ""), More { query: &query, ..More::default() })?;
        let (text, _) = self.transport.text(OPERATION, reply)?;
        let malformed = |reason| self.malformed(OPERATION, reason);
        let listed = xml::elements(&text, "Contents").map(|one| {
            let key = xml::text(one, "Key").ok_or_else(|| malformed("an object has no key"))?;
            let size = xml::text(one, "Size").and_then(|text| text.parse().ok());
            let size = size.ok_or_else(|| malformed("an object has no size"))?;
            let modified = time(one, "LastModified");
            let modified = modified.ok_or_else(|| malformed("an object has no time"))?;
            // Others would have the caller ask for the same list for ever.
            if !key.starts_with(prefix) || *key <= *after {
                return Err(malformed("an object is out of order"));
            }
            Ok(Listed { key, size, modified })
        });
        listed.collect()
    }

    pub(crate) fn ask(
        &self,
        operation: &'static str,
        (method, key): (Method, &str),
        more: More<'_>,
    ) -> Result<Reply> {
        let More { query, headers, body } = more;
        let url = self.sign((method, key), query, headers, OWN_LIFETIME);
        self.transport.send(&Call { operation, method, url, headers, body })
    }

    pub(crate) fn sign(
        &self,
        (method, key): (Method, &str),
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        lifetime: Duration,
    ) -> String {
        // A path that is joined to a URL is never malformed.
        let url = self.urls.object_url(key).unwrap_or_else(|_| self.urls.base_url().clone());
        let Credentials { key, secret, token } = &self.credentials;
        let url = signing::sign(
            &Timestamp::now(),
            method,
            url,
            key,
            secret,
            token.as_deref(),
            self.urls.region(),
            lifetime.as_secs(),
            query.iter().copied(),
            headers.iter().copied(),
        );
        url.into()
    }

    pub(crate) fn malformed(&self, operation: &'static str, reason: &'static str) -> Error {
        Error::BadReply { operation, host: self.transport.host.clone(), reason }
    }

    /// Whether the reply to a request that was accepted says that it was also done.
    pub(crate) fn done(&self, operation: &'static str, text: &str) -> Result<()> {
        if xml::text(text, "ETag").is_some() {
            return Ok(());
        }
        let (host, code) = (self.transport.host.clone(), xml::code(text));
        Err(Error::Failed { operation, host, status: 200, code })
    }
}

pub(crate) fn time(xml: &str, name: &str) -> Option<SystemTime> {
    Some(xml::text(xml, name)?.parse::<Timestamp>().ok()?.into())
}

fn check_name(what: &'static str, text: &str) -> Result<()> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(is_good) {
        return Err(Error::BadName { what, text: text.to_owned() });
    }
    Ok(())
}

/// An endpoint without the credentials that do not belong into it.
fn shown(endpoint: &str) -> String {
    endpoint.rsplit('@').next().unwrap_or_default().to_owned()
}
