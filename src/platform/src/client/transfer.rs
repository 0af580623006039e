//! Content on its way to and from an object store, by presigned URLs, which are secrets.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::time::Duration;

use platform_client::{HttpClient, RequestCancellation, RequestLimits, RetryPolicy};

use crate::error::file;
use crate::{Error, Result};

/// The time without a byte.
const SILENCE: Duration = Duration::from_secs(60);

/// The transfers under way, which can be cancelled together.
#[derive(Clone, Default)]
pub(super) struct Transfers(RequestCancellation);

impl fmt::Debug for Transfers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Transfers")
    }
}

impl Transfers {
    pub(super) fn cancel(&self) {
        self.0.cancel();
    }

    /// Sends the `length` bytes of a file from `offset` on, again if the store is away.
    pub(super) fn put(&self, url: &str, (from, offset): (&File, u64), length: u64) -> Result<()> {
        let client = self.client();
        let mut seek = Ok(());
        let sent = RetryPolicy::through_outage().run(&self.0, || {
            let mut from = from;
            seek = from.seek(SeekFrom::Start(offset)).map(drop);
            client.put(url, "application/octet-stream", from, length)
        });
        seek.map_err(file("read", std::path::Path::new("the packed archive")))?;
        sent.map_err(|error| self.failed(error))
    }

    /// Sends bytes, again if the store is away.
    pub(super) fn put_bytes(&self, url: &str, bytes: &[u8]) -> Result<()> {
        let made = tempfile::tempfile().and_then(|mut open| {
            open.write_all(bytes)?;
            Ok(open)
        });
        let open = made.map_err(file("create a file in", &std::env::temp_dir()))?;
        self.put(url, (&open, 0), bytes.len() as u64)
    }

    /// Copies content, and returns its size.
    pub(super) fn get(&self, url: &str, to: &mut dyn Write) -> Result<u64> {
        let client = self.client();
        let reply = RetryPolicy::usual().run(&self.0, || client.get(url, &[]));
        let reply = reply.map_err(|error| self.failed(error))?;
        let copied = io::copy(&mut reply.into_reader(), to);
        copied.map_err(|source| {
            if self.0.is_cancelled() {
                return Error::Cut;
            }
            Error::Exchange { operation: "copy content of", source }
        })
    }

    fn client(&self) -> HttpClient {
        let limits = RequestLimits { whole: None, silence: SILENCE, redirects: 0 };
        HttpClient::new(limits, &self.0)
    }

    fn failed(&self, source: platform_client::Error) -> Error {
        if self.0.is_cancelled() { Error::Cut } else { Error::Transfer { source } }
    }
}

/// Whether a URL is that of an object store, and not a path at the platform.
pub(super) fn is_elsewhere(url: &str) -> bool {
    !url.starts_with('/')
}
