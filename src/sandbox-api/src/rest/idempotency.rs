//! Replies to repeated requests: a request with the Idempotency-Key of another one gets that one's reply.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::Mutex;
use http_server::Response;
use sha2::{Digest as _, Sha256};

use super::refused::Refused;
use crate::clock::Clock;

/// How long a reply is kept.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// The most replies of one API key. After that the oldest are dropped.
const MOST: usize = 256;

/// The replies that are kept, by API key and Idempotency-Key.
pub(super) struct Idempotency {
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<Name, Entry>>,
}

type Name = (String, String);

struct Entry {
    digest: [u8; 32],
    since: Instant,
    /// `None` while the first request is under way.
    body: Option<Vec<u8>>,
}

/// A first request that is under way. Dropping it allows another one.
struct First<'a> {
    idempotency: &'a Idempotency,
    name: Option<Name>,
}

impl Idempotency {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, entries: Mutex::default() }
    }

    /// Does `create` and keeps its body, or returns the kept one. A failure is not kept.
    pub(super) fn once(
        &self,
        api_key: &str,
        key: Option<&str>,
        request: &[u8],
        create: impl FnOnce() -> Result<Vec<u8>, Refused>,
    ) -> Result<Response, Refused> {
        let created = |body| Response::bytes(201, "application/json", body);
        let Some(key) = key else { return create().map(created) };
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if !(1..=255).contains(&key.len()) || !key.bytes().all(allowed) {
            return Err(Refused::bad("Idempotency-Key has 1 to 255 of a-z, 0-9 and -"));
        }
        let name = (api_key.to_owned(), key.to_owned());
        if let Some(body) = self.begin(&name, Sha256::digest(request).into())? {
            return Ok(created(body));
        }
        let mut first = First { idempotency: self, name: Some(name) };
        let body = create()?;
        if let Some(name) = first.name.take()
            && let Some(entry) = self.entries.lock().get_mut(&name)
        {
            entry.body = Some(body.clone());
        }
        Ok(created(body))
    }

    /// The kept body; `None` if this is the first request.
    fn begin(&self, name: &Name, digest: [u8; 32]) -> Result<Option<Vec<u8>>, Refused> {
        let now = self.clock.now();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| entry.body.is_none() || now < entry.since + KEPT);
        if let Some(entry) = entries.get(name) {
            return match &entry.body {
                _ if entry.digest != digest => Err(Refused::new(
                    422,
                    "another request with this Idempotency-Key had another body",
                )),
                None => Err(Refused::new(
                    409,
                    "a request with this Idempotency-Key is still under way: try again",
                )),
                Some(body) => Ok(Some(body.clone())),
            };
        }
        let mine =
            entries.iter().filter(|((key, _), entry)| *key == name.0 && entry.body.is_some());
        if mine.clone().count() >= MOST
            && let Some(oldest) = mine.min_by_key(|(_, entry)| entry.since)
        {
            let oldest = oldest.0.clone();
            entries.remove(&oldest);
        }
        entries.insert(name.clone(), Entry { digest, since: now, body: None });
        Ok(None)
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.idempotency.entries.lock().remove(&name);
        }
    }
}
