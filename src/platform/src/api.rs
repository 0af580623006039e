//! The routes, and which file handles each.
//!
//! | path | who | where |
//! |---|---|---|
//! | `/api/runners/…` | runners, by the runners' token | `runner.rs` |
//! | `/api/webhooks/agent/…` | guests (and runners for them), by their run's token | `guest.rs` |
//! | `/blobs/…`, `/uploads/…` | holders of a presigned URL | `content.rs` |
//! | `/v1/…` | operators and submitters: over the Unix socket, or by their token | `operator.rs` |

mod content;
mod guest;
mod operator;
mod reply;
mod runner;

pub(crate) use self::operator::{Prune, escape};

use std::sync::Arc;
use std::time::Duration;

use http_server::{Account, Handler, Head, Method, Request, Response};
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::key::{Tag, hash};
use crate::{Refusal, Result};

/// The most bytes of an ordinary body.
const ORDINARY: u64 = 1 << 20;

/// The platform behind HTTP.
pub(crate) struct Api(pub(crate) Arc<Backend>);

impl Handler for Api {
    fn handle(&self, request: &mut Request<'_>) -> Response {
        if let Err(refusal) = announced(request) {
            return reply::error(&refusal.into());
        }
        let path = request.head.path().to_owned();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let answered = match parts[..] {
            ["api", "runners", ref rest @ ..] => runner::answer(&self.0, request, rest),
            ["api", "webhooks", "agent", ref rest @ ..] => guest::answer(&self.0, request, rest),
            ["blobs" | "uploads", ..] => content::answer(&self.0, request, &parts),
            ["v1", ref rest @ ..] => operator::answer(&self.0, request, rest),
            _ => Err(Refusal::NoRoute.into()),
        };
        answered.unwrap_or_else(|error| reply::error(&error))
    }

    fn refuse(&self, refusal: &http_server::Refusal) -> Response {
        reply::error(&refusal.clone().into())
    }
}

/// Rejects a body whose length is not announced, and an upload without a length.
fn announced(request: &Request<'_>) -> Result<(), Refusal> {
    let needs_length = request.head.method == Method::Put;
    if request.body.left().is_none()
        || needs_length && request.head.header("content-length").is_none()
    {
        return Err(Refusal::LengthRequired);
    }
    Ok(())
}

/// Rejects every method but one.
fn only(head: &Head, method: Method) -> Result<(), Refusal> {
    if head.method == method { Ok(()) } else { Err(Refusal::Method { allowed: method.name() }) }
}

/// A body of JSON; an empty one is an empty object.
fn json<T: DeserializeOwned>(request: &mut Request<'_>, limit: u64, account: Account) -> Result<T> {
    let loaded = request.body.load(limit, account)?;
    let bytes = if loaded.bytes.is_empty() { b"{}" } else { loaded.bytes.as_slice() };
    // The error's text names fields and positions, and may show a word of the body, which is the
    // client's own.
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad(error.to_string()).into())
}

/// The hash of the token that the client sent.
fn token(head: &Head) -> Result<Tag, Refusal> {
    head.bearer().map(hash).ok_or(Refusal::Unauthenticated)
}

/// The `hold` parameter in milliseconds, at most [`Config::poll_hold`](crate::Config::poll_hold).
fn hold(backend: &Backend, head: &Head) -> Duration {
    let requested = head.parameter("hold").and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_millis(requested).min(backend.config.poll_hold)
}
