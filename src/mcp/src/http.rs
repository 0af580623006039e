//! The transport over HTTP: `POST` brings a message, `DELETE` ends a session. There is no stream of messages
//! that a client did not ask for, so `GET` is 405.
//!
//! | status | when |
//! |---|---|
//! | 401, 403 | no valid key; a key that may only read; a page of another site (`Origin`) |
//! | 421 | the Host header is none of this server's names |
//! | 400 | no message, no session, a version that is not spoken |
//! | 404 | the session has ended, or is another key's |
//! | 202 | a notification or a response |
//!
//! A call of a tool is answered by a stream of events, with reports of its progress, if the client accepts
//! one. A client that goes does not cancel its call.

mod events;
mod host;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http_server::{Handler, Method, Request, Response};
use sandbox_api::{ApiKey, Clock, Keys, Scope};
use serde_json::Value;

use self::events::Events;
pub use self::host::Hosts;
use self::sessions::Sessions;
use crate::call::Sink;
use crate::message::{self, Message, RpcError};
use crate::protocol::VERSIONS;
use crate::server::{Server, Step, Work, is_known};
use crate::session::Session;

/// The largest message.
const LARGEST: u64 = 4 << 20;

/// The header with a session's id.
const SESSION: &str = "Mcp-Session-Id";

/// Answers requests at the endpoint.
pub struct Http {
    server: Arc<Server>,
    keys: Arc<Keys>,
    hosts: Hosts,
    sessions: Sessions,
}

/// An answer with an error status.
struct Refused {
    status: u16,
    error: RpcError,
}

type Result<T> = std::result::Result<T, Refused>;

impl Http {
    /// `hosts` are the names under which clients reach the server.
    pub fn new(server: Server, keys: Arc<Keys>, hosts: Hosts, clock: Arc<dyn Clock>) -> Self {
        Self { server: Arc::new(server), keys, hosts, sessions: Sessions::new(clock) }
    }

    /// Cancels all calls, and takes no more.
    pub fn stop(&self) {
        self.sessions.stop();
    }

    fn answer(&self, request: &mut Request<'_>) -> Result<Response> {
        self.hosts.check(&request.head)?;
        let key = self.key(request)?;
        match request.head.method {
            Method::Post => self.post(request, &key),
            Method::Delete => {
                let id = request.head.header(SESSION);
                let id = id.ok_or_else(|| Refused::bad("the header Mcp-Session-Id is missing"))?;
                let session = self.sessions.end(id, &key.id).ok_or_else(Refused::no_session)?;
                session.close();
                self.server.end_implicit(&session);
                Ok(Response::new(204))
            }
            _ => Ok(Response::new(405).with("Allow", "POST, DELETE")),
        }
    }

    fn key(&self, request: &Request<'_>) -> Result<ApiKey> {
        let head = &request.head;
        let Some(presented) = head.bearer().or_else(|| head.header("x-api-key")) else {
            let text =
                "an API key is missing: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`";
            return Err(Refused::new(401, text));
        };
        let key = self.keys.check(presented).map_err(|error| {
            log::error!("cannot check an API key; error={}", base::error::chain(&error));
            Refused::new(500, "the server cannot read its API keys")
        })?;
        match key {
            None => Err(Refused::new(401, "the API key is unknown or revoked")),
            Some(key) if key.scope == Scope::Read => Err(Refused::new(
                403,
                "the API key may only read: the tools need one without `--scope read`",
            )),
            Some(key) => Ok(key),
        }
    }

    fn post(&self, request: &mut Request<'_>, key: &ApiKey) -> Result<Response> {
        let accepts = Accepts::of(request)?;
        let content_type = request.head.header("content-type").unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        if !content_type.eq_ignore_ascii_case("application/json") {
            return Err(Refused::new(415, "the Content-Type of a message is application/json"));
        }
        let body = request
            .body
            .read_to_limit(LARGEST)
            .map_err(|refusal| Refused::new(refusal.status(), refusal.to_string()))?;
        let message = match message::parse(&body) {
            Ok(message) => message,
            Err(bad) => {
                let body = message::failure(bad.id.as_ref(), &bad.error);
                return Ok(json(400, &body));
            }
        };
        let origin = request.origin().ok();
        let Some(id) = request.head.header(SESSION) else {
            return self.first(message, key);
        };
        let session = self.sessions.find(id, &key.id).ok_or_else(Refused::no_session)?;
        check_version(request)?;
        match self.server.receive(&session, message) {
            Step::Nothing => Ok(Response::new(202)),
            Step::Reply(reply) => Ok(json(200, &reply)),
            Step::Run(work) => Ok(self.run(work, accepts, origin)),
        }
    }

    /// A message without a session, which begins one.
    fn first(&self, message: Message, key: &ApiKey) -> Result<Response> {
        match &message {
            Message::Request { method, .. } if method == "initialize" => {}
            Message::Request { id, method, .. } if !is_known(method) => {
                let body = message::reply(id, Err(RpcError::no_method(method)));
                return Ok(json(400, &body));
            }
            _ => {
                return Err(Refused::bad(
                    "the header Mcp-Session-Id is missing: send `initialize` first",
                ));
            }
        }
        let session = Session::new(key.caller(), sessions::MOST_CALLS);
        let Step::Reply(reply) = self.server.receive(&session, message) else {
            return Err(Refused::bad("`initialize` has a reply"));
        };
        if reply.get("error").is_some() {
            return Ok(json(200, &reply));
        }
        let id = self.sessions.add(session, &key.id)?;
        Ok(json(200, &reply).with(SESSION, id))
    }

    fn run(&self, work: Box<Work>, accepts: Accepts, origin: Option<String>) -> Response {
        let server = Arc::clone(&self.server);
        if accepts == Accepts::Json {
            return match work.run(&server, &Silent, origin.as_deref()) {
                Some(reply) => json(200, &reply),
                None => Response::new(499),
            };
        }
        let stream = Response::stream(move |writer| {
            let events = Events::new(writer);
            match work.run(&server, &events, origin.as_deref()) {
                Some(reply) => events.finish(&reply),
                None => Ok(()),
            }
        });
        stream.with("Content-Type", "text/event-stream").with("Cache-Control", "no-store")
    }
}

impl Handler for Http {
    fn handle(&self, request: &mut Request<'_>) -> Response {
        self.answer(request).unwrap_or_else(|refused| refused.response())
    }
}

/// What a client takes as a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepts {
    Json,
    Events,
}

impl Accepts {
    fn of(request: &Request<'_>) -> Result<Self> {
        let Some(accept) = request.head.header("accept") else { return Ok(Self::Json) };
        let has = |wanted: &[&str]| {
            let types =
                accept.split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
            types
                .into_iter()
                .any(|one| wanted.iter().any(|wanted| one.eq_ignore_ascii_case(wanted)))
        };
        if has(&["text/event-stream", "text/*"]) {
            Ok(Self::Events)
        } else if has(&["application/json", "application/*", "*/*"]) {
            Ok(Self::Json)
        } else {
            Err(Refused::new(
                406,
                "the header Accept has to list application/json and text/event-stream",
            ))
        }
    }
}

/// A client that gets the reply alone.
struct Silent;

impl Sink for Silent {
    fn send(&self, _message: &Value) {}
}

fn check_version(request: &Request<'_>) -> Result<()> {
    let Some(version) = request.head.header("mcp-protocol-version") else { return Ok(()) };
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    let spoken = VERSIONS.join(", ");
    Err(Refused::bad(format!("the MCP-Protocol-Version is none of {spoken}")))
}

fn json(status: u16, body: &Value) -> Response {
    Response::bytes(status, "application/json", body.to_string().into_bytes())
}

impl Refused {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, error: RpcError::busy(message) }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self { status: 400, error: RpcError::invalid_request(message) }
    }

    fn no_session() -> Self {
        Self::new(404, "the session has ended: send `initialize` again")
    }

    fn response(&self) -> Response {
        let response = json(self.status, &message::failure(None, &self.error));
        match self.status {
            401 => response.with("WWW-Authenticate", "Bearer"),
            429 | 503 => response.with("Retry-After", "1"),
            _ => response,
        }
    }
}
