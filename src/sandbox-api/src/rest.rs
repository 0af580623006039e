//! The REST API: sandboxes are created, found, paused and ended by it. Their commands and files are not its part.
//!
//! | to know | read |
//! |---|---|
//! | which calls there are | `rest/route.rs`, `docs/api.md` |
//! | what a request may ask for | `rest/create.rs`, `rest/network.rs`, `rest/fields.rs` |
//! | what replies have | `rest/shown.rs` |
//! | which status an error has | `rest/refused.rs` |

mod context;
mod create;
mod fields;
mod idempotency;
mod life;
mod list;
mod logs;
mod metrics;
mod network;
pub(crate) mod refused;
mod route;
mod shown;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http_server::{Handler, Method, Refusal, Request, Response};

use self::context::{Call, Context};
use self::idempotency::Idempotency;
use self::refused::Refused;
use crate::clock::Clock;
use crate::key::{Keys, Scope};
use crate::sandboxes::Sandboxes;

/// Answers the calls of the REST API.
pub struct Rest(Context);

impl Rest {
    /// `domain` is the one below which sandboxes have host names, perhaps with a port.
    pub fn new(
        sandboxes: Arc<Sandboxes>,
        keys: Arc<Keys>,
        domain: Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Context { sandboxes, keys, domain, idempotency: Idempotency::new(clock) })
    }

    /// Whether a path is one of this API, so that [`Handler::handle`] answers it.
    pub fn has(path: &str) -> bool {
        route::is_ours(path)
    }

    fn answer(&self, request: &mut Request<'_>) -> Result<Response, Refused> {
        let Some(key) = request.head.header("x-api-key") else {
            return Err(Refused::new(401, "the header X-API-Key is missing"));
        };
        let Some(key) = self.0.keys.check(key)? else {
            return Err(Refused::new(401, "the API key is unknown or revoked"));
        };
        let (route, segments) = route::find(request.head.method, request.head.path())?;
        if key.scope == Scope::Read && route.method != Method::Get {
            return Err(Refused::new(403, "the API key may only read"));
        }
        let (caller, scope) = (key.caller(), key.scope);
        let mut call = Call { context: &self.0, request, caller, scope, segments };
        (route.action)(&mut call)
    }
}

impl Handler for Rest {
    fn handle(&self, request: &mut Request<'_>) -> Response {
        self.answer(request).unwrap_or_else(|refused| refused.response())
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        Refused::from(refusal).response()
    }
}
