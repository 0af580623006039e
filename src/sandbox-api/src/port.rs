//! Requests to ports of sandboxes, which programs in them serve.
//!
//! A request's head is read here and sent on with `Connection: close`; what follows it goes through unread,
//! both ways, until one side ends.

pub(crate) mod forward;
mod head;
mod page;
mod target;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_server::{Request, Response};

pub(crate) use self::target::Target;
use crate::envd::{enter, is_closed, is_equal};
use crate::rest::refused::Refused;
use crate::sandboxes::Sandboxes;

/// How long the sandbox may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// Forwards requests to ports.
pub(crate) struct Ports {
    sandboxes: Arc<Sandboxes>,
}

impl Ports {
    pub(crate) fn new(sandboxes: Arc<Sandboxes>) -> Self {
        Self { sandboxes }
    }

    pub(crate) fn answer(&self, target: &Target, request: &mut Request<'_>) -> Response {
        let head = &request.head;
        let Some(sandbox) = self.sandboxes.find(&target.sandbox) else {
            return page::gone(head, &target.sandbox);
        };
        if let Some(token) = sandbox.traffic_token() {
            let given = head.header("e2b-traffic-access-token").unwrap_or_default();
            if !is_equal(given, token) {
                let text = "the header E2b-Traffic-Access-Token is missing or wrong";
                return Refused::new(403, text).response();
            }
        }
        let running = match enter(&self.sandboxes, &sandbox) {
            Ok(running) => running,
            Err(None) => return page::gone(head, &target.sandbox),
            Err(Some(refused)) => return refused.response(),
        };
        let guest = match running.connect(target.port, Instant::now() + CONNECT) {
            Ok(guest) => guest,
            Err(_) if is_closed(&running) => return page::gone(head, &target.sandbox),
            Err(sandbox::Error::NothingListens { port }) => {
                return page::nothing_listens(head, &target.sandbox, port);
            }
            Err(error) => {
                log::warn!(
                    "cannot connect to a port; sandbox={} port={} error={}",
                    target.sandbox,
                    target.port,
                    base::error::chain(&error)
                );
                return Refused::new(502, error.to_string()).response();
            }
        };
        let closed = Arc::clone(running.closed());
        let mask = sandbox.mask_request_host();
        let host = mask.map(|mask| mask.replace("${PORT}", &target.port.to_string()));
        let headers = head::headers(head, host.as_deref());
        Response::upgrade(move |upgraded| {
            let mut begin = head::request_line(&upgraded.head);
            begin.extend_from_slice(headers.as_bytes());
            begin.extend_from_slice(&upgraded.early);
            forward::forward(&upgraded.socket, &guest, begin, &closed);
        })
    }
}
