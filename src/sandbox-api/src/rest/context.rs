//! What the calls of the REST API share.

use std::sync::Arc;
use std::time::Duration;

use http_server::{Request, Response};
use serde::Serialize;

use super::fields::Fields;
use super::idempotency::Idempotency;
use super::refused::Refused;
use crate::key::{Keys, Scope};
use crate::sandboxes::{Caller, Sandboxes};

/// The largest body of a request.
const LARGEST_BODY: u64 = 1024 * 1024;

/// What the calls work on.
pub(super) struct Context {
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) keys: Arc<Keys>,
    /// The domain below which sandboxes have host names, perhaps with a port.
    pub(super) domain: Option<String>,
    pub(super) idempotency: Idempotency,
}

/// A call: its request, and who makes it.
pub(super) struct Call<'a, 'b> {
    pub(super) context: &'a Context,
    pub(super) request: &'a mut Request<'b>,
    pub(super) caller: Caller,
    pub(super) scope: Scope,
    /// The variable segments of the path, decoded.
    pub(super) segments: Vec<String>,
}

impl Call<'_, '_> {
    /// The first variable segment of the path: most often a sandbox's id.
    pub(super) fn id(&self) -> &str {
        self.segments.first().map_or("", String::as_str)
    }

    pub(super) fn body(&mut self) -> Result<Vec<u8>, Refused> {
        Ok(self.request.body.read_to_limit(LARGEST_BODY)?)
    }

    pub(super) fn fields(&mut self) -> Result<Fields, Refused> {
        Fields::of_body(&self.body()?)
    }

    /// A parameter of the query, decoded; an empty one is absent.
    pub(super) fn query(&self, name: &str) -> Result<Option<String>, Refused> {
        Ok(self.request.head.query(name)?.filter(|value| !value.is_empty()))
    }
}

pub(super) fn json(status: u16, value: &impl Serialize) -> Result<Response, Refused> {
    Response::json(status, value).map_err(|error| Refused::internal(&error))
}

/// Seconds of a request, which may be in the past: then zero.
pub(super) fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
