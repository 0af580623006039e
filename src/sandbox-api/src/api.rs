//! The HTTP API as a whole: calls on sandboxes, calls on what is in them, and their ports.
//!
//! ```text
//!   Host <port>-<id>.<domain>, or headers E2b-Sandbox-Id and E2b-Sandbox-Port
//!      ├─ port 49983 ──▶ envd.rs: commands and files
//!      └─ another ─────▶ port.rs: what listens there in the sandbox
//!   neither ──▶ /files with a signature ──▶ envd.rs
//!          └──▶ rest.rs
//! ```

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use http_server::{Handler, Refusal, Request, Response};

use crate::clock::Clock;
use crate::envd::{self, Envd};
use crate::key::Keys;
use crate::port::{Ports, Target};
use crate::rest::Rest;
use crate::sandboxes::Sandboxes;

/// Answers all requests of programs that use sandboxes.
pub struct Api {
    rest: Rest,
    envd: Envd,
    ports: Ports,
    domain: Option<String>,
    /// What answers requests with another path than this API's.
    other: Option<(&'static str, Arc<dyn Handler>)>,
}

impl Api {
    /// `domain` is the one below which sandboxes have host names, perhaps with a port. Without it they have none.
    pub fn new(
        sandboxes: Arc<Sandboxes>,
        keys: Arc<Keys>,
        domain: Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (envd, ports) = (Envd::new(Arc::clone(&sandboxes)), Ports::new(Arc::clone(&sandboxes)));
        Self {
            rest: Rest::new(sandboxes, keys, domain.clone(), clock),
            envd,
            ports,
            domain,
            other: None,
        }
    }

    /// Has `handler` answer the requests for `path` that are not for a sandbox.
    #[must_use]
    pub fn with(self, path: &'static str, handler: Arc<dyn Handler>) -> Self {
        Self { other: Some((path, handler)), ..self }
    }
}

impl Handler for Api {
    fn handle(&self, request: &mut Request<'_>) -> Response {
        let target = match Target::of(&request.head, self.domain.as_deref()) {
            Ok(target) => target,
            Err(refused) => return refused.response(),
        };
        let path = request.head.path();
        if let (None, Some((other, handler))) = (&target, &self.other)
            && path == *other
        {
            return handler.handle(request);
        }
        match target {
            Some(target) if target.port == envd::PORT => {
                self.envd.answer(Some(&target.sandbox), request)
            }
            Some(target) => self.ports.answer(&target, request),
            None if path == "/health" => Response::new(204),
            None if Envd::has(path) => self.envd.answer(None, request),
            None => self.rest.handle(request),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        self.rest.refuse(refusal)
    }
}
