//! The services for the commands and files of one sandbox: Connect services and plain HTTP.
//!
//! | to know | read |
//! |---|---|
//! | who may call, and what a call gets | `envd.rs`, `envd/call.rs` |
//! | commands | `envd/process.rs`, `envd/follow.rs` |
//! | files | `envd/filesystem.rs`, `envd/entry.rs` |
//! | download and upload, and signed URLs | `envd/download.rs`, `envd/upload.rs`, `envd/signature.rs` |
//!
//! A call holds the sandbox's VM, a stream does not. Streams, and calls that wait, end with the sandbox and when it is
//! paused: streams without their last message, so that clients look at the sandbox's state.

mod call;
mod download;
mod entry;
mod filesystem;
mod follow;
mod message;
mod multipart;
mod process;
mod signature;
mod upload;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use connect_rpc::Code;
use http_server::{Head, Method, Request, Response};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use self::call::{Call, Kind};
use crate::rest::refused::Refused;
use crate::sandboxes::{Error, ManagedSandbox, RunningSandbox, Sandboxes, State};

/// The port at which clients expect these services.
pub(crate) const PORT: u16 = 49983;

/// Answers the calls on the commands and files of sandboxes.
pub(crate) struct Envd {
    sandboxes: Arc<Sandboxes>,
}

impl Envd {
    pub(crate) fn new(sandboxes: Arc<Sandboxes>) -> Self {
        Self { sandboxes }
    }

    /// Whether a path is one of these services.
    pub(crate) fn has(path: &str) -> bool {
        ["/process.Process/", "/filesystem.Filesystem/"].iter().any(|root| path.starts_with(root))
            || matches!(path, "/files" | "/health" | "/metrics" | "/envs")
    }

    /// Answers a call on the sandbox of this id; without one, a signed URL's signature names it.
    pub(crate) fn answer(&self, id: Option<&str>, request: &mut Request<'_>) -> Response {
        let found = match id {
            Some(id) => match self.sandboxes.find(id) {
                Some(sandbox) => sandbox,
                None => return gone(id),
            },
            None => match self.signed(&request.head) {
                Ok(sandbox) => sandbox,
                Err(refused) => return refused.response(),
            },
        };
        if request.head.path() == "/health" {
            return match found.status().state {
                State::Running => Response::new(204),
                _ => gone(found.id()),
            };
        }
        if let Err(refused) = self.admit(&found, &request.head) {
            return refused.response();
        }
        let running = match enter(&self.sandboxes, &found) {
            Ok(running) => running,
            Err(None) => return gone(found.id()),
            Err(Some(refused)) => return refused.response(),
        };
        serve(&found, &running, request)
    }

    /// The sandbox whose token made a URL's signature.
    fn signed(&self, head: &Head) -> Result<Arc<ManagedSandbox>, Refused> {
        if head.path() != "/files" {
            return Err(Refused::bad("the header E2b-Sandbox-Id is missing"));
        }
        let signed = signature::Signed::of(head)?;
        let mut sandboxes = self.sandboxes.all().into_iter();
        let found = sandboxes.find(|sandbox| signed.is_by(sandbox.envd_token()));
        found.ok_or_else(|| Refused::new(401, "invalid signature"))
    }

    /// Checks the token, or the signature of a URL.
    fn admit(&self, sandbox: &ManagedSandbox, head: &Head) -> Result<(), Refused> {
        let is_files = head.path() == "/files";
        match head.header("x-access-token") {
            Some(token) if is_equal(token, sandbox.envd_token()) => Ok(()),
            Some(_) if is_files => {
                Err(Refused::new(401, "access token present in header but does not match"))
            }
            None if is_files => {
                let signed = signature::Signed::of(head)?;
                signed.check(sandbox.envd_token(), self.sandboxes.wall())
            }
            _ => Err(Refused::new(
                401,
                "unauthorized access, please provide a valid access token or method signing if supported",
            )),
        }
    }
}

/// The sandbox for calls; without a reason it does not run.
pub(crate) fn enter(
    sandboxes: &Sandboxes,
    sandbox: &ManagedSandbox,
) -> Result<RunningSandbox, Option<Refused>> {
    sandboxes.enter(sandbox).map_err(|error| match error {
        Error::Paused { .. } | Error::NotFound { .. } => None,
        error => Some(Refused::from(error)),
    })
}

/// Compares secrets in constant time.
pub(crate) fn is_equal(given: &str, expected: &str) -> bool {
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}

/// The reply of a sandbox that does not run. Clients know its text.
pub(crate) fn gone(id: &str) -> Response {
    let body = json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502});
    Response::bytes(502, "application/json", body.to_string().into_bytes())
}

fn serve(
    sandbox: &ManagedSandbox,
    running: &RunningSandbox,
    request: &mut Request<'_>,
) -> Response {
    let path = request.head.path().to_owned();
    let mut call = Call::new(sandbox, running, request);
    let response = match (call.request.head.method, path.as_str()) {
        (Method::Get | Method::Head, "/files") => download::answer(&mut call),
        (Method::Post, "/files") => upload::answer(&mut call),
        (Method::Get, "/envs") => plain(&json!(sandbox.env())),
        (Method::Get, "/metrics") => metrics(&call),
        (Method::Post, path) => return connect(&mut call, path),
        _ => Err(Refused::new(404, "there is no such call")),
    };
    let response = response.unwrap_or_else(|refused| refused.response());
    if response.status >= 500 && is_closed(running) { gone(sandbox.id()) } else { response }
}

/// Answers a Connect call.
fn connect(call: &mut Call<'_, '_>, path: &str) -> Response {
    let (kind, answer) = match process::find(path).or_else(|| filesystem::find(path)) {
        Some(found) => found,
        None => {
            let error = connect_rpc::Error::new(Code::Unimplemented, "there is no such call");
            return call::fail(Kind::Unary, &error);
        }
    };
    let answer = call.check(kind).and_then(|()| answer(call));
    match answer {
        Ok(response) => response,
        Err(_) if is_closed(call.running) => gone(call.sandbox.id()),
        Err(error) => call::fail(kind, &error),
    }
}

/// Whether the sandbox was paused or ended meanwhile.
pub(crate) fn is_closed(running: &RunningSandbox) -> bool {
    running.closed().is_set()
}

fn plain(value: &serde_json::Value) -> Result<Response, Refused> {
    Response::json(200, value).map_err(|error| Refused::internal(&error))
}

fn metrics(call: &Call<'_, '_>) -> Result<Response, Refused> {
    let (sandbox, now) = (call.sandbox, std::time::SystemTime::now());
    let sample = sandbox.metrics().take(&**call.running, now);
    let sample = sample.map_err(|error| Refused::internal(&error))?;
    let mib = |bytes: u64| bytes >> 20;
    let since = sample.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    plain(&json!({
        "ts": since.as_secs(),
        "cpu_count": sandbox.template().vcpus,
        "cpu_used_pct": (sample.cpu_percent * 100.0).round() / 100.0,
        "mem_total": sample.memory_total,
        "mem_used": sample.memory_used,
        "mem_cache": sample.memory_cache,
        "mem_total_mib": mib(sample.memory_total),
        "mem_used_mib": mib(sample.memory_used),
        "disk_used": sample.disk_used,
        "disk_total": sample.disk_total,
    }))
}
