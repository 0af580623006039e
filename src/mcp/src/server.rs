//! The methods of the protocol. Transports hand messages in and take answers out.

use std::sync::Arc;

use sandbox_api::Sandboxes;
use serde_json::{Map, Value, json};

use crate::call::{Call, Sink};
use crate::context::Context;
use crate::failure::Failure;
use crate::message::{Id, Message, RpcError, reply, shorten};
use crate::options::Options;
use crate::port::Ports;
use crate::session::{Running, Session};
use crate::tool::Tool;
use crate::{prompt, protocol, resource, tool};

/// Answers the messages of clients.
pub struct Server(Context);

/// What is done with a message.
pub(crate) enum Step {
    /// It needs no reply.
    Nothing,
    Reply(Value),
    /// It is run by the transport, which sends what it returns.
    Run(Box<Work>),
}

/// A request that takes time.
pub(crate) struct Work {
    running: Running,
    task: Task,
    token: Option<Value>,
}

enum Task {
    Tool(&'static Tool, Map<String, Value>),
    Read(String),
}

impl Server {
    /// For a client on this host: published ports get an address of its loopback interface.
    pub fn local(sandboxes: Arc<Sandboxes>, options: Options) -> Self {
        Self(Context { sandboxes, options, ports: Ports::local() })
    }

    /// For clients of the sandboxes API: published ports have host names below `domain`.
    pub fn remote(sandboxes: Arc<Sandboxes>, options: Options, domain: Option<String>) -> Self {
        Self(Context { sandboxes, options, ports: Ports::remote(domain) })
    }

    /// Ends all sandboxes and published ports.
    pub(crate) fn stop(&self) {
        self.0.sandboxes.stop();
        self.0.ports.stop();
    }

    /// Ends the sandbox that a session created by itself.
    pub(crate) fn end_implicit(&self, session: &Session) {
        if let Some(sandbox) = session.implicit.present() {
            // It may have ended.
            let _ = self.0.sandboxes.kill(&session.caller, &sandbox);
        }
    }

    pub(crate) fn receive(&self, session: &Arc<Session>, message: Message) -> Step {
        match message {
            Message::Request { id, method, params } => self
                .request(session, &id, &method, params)
                .unwrap_or_else(|error| Step::Reply(reply(&id, Err(error)))),
            Message::Notification { method, params } => {
                if method == "notifications/cancelled"
                    && let Some(id) = params.get("requestId").and_then(Id::of)
                {
                    session.cancel(&id);
                }
                Step::Nothing
            }
            Message::Response => Step::Nothing,
        }
    }

    fn request(
        &self,
        session: &Arc<Session>,
        id: &Id,
        method: &str,
        mut params: Map<String, Value>,
    ) -> Result<Step, RpcError> {
        if !matches!(method, "initialize" | "ping") && is_known(method) {
            session.need_initialized()?;
        }
        let result = match method {
            "initialize" => {
                let version = protocol::negotiate(&params)?;
                session.initialize(version)?;
                protocol::hello(version, self.0.options.version)
            }
            "ping" => json!({}),
            "tools/list" => one_page(&params, tool::list(&self.0))?,
            "prompts/list" => one_page(&params, prompt::list())?,
            "prompts/get" => prompt::get(&params)?,
            "resources/list" => one_page(&params, resource::list(&self.0, session))?,
            "resources/templates/list" => one_page(&params, resource::templates())?,
            "resources/read" => {
                let uri = text(&mut params, "uri")?;
                return work(session, id, Task::Read(uri), None);
            }
            "tools/call" => {
                let name = text(&mut params, "name")?;
                let tool = tool::find(&name).ok_or_else(|| {
                    RpcError::invalid_params(format!("there is no tool `{}`", shorten(&name)))
                })?;
                let arguments = match params.remove("arguments") {
                    None | Some(Value::Null) => Map::new(),
                    Some(Value::Object(arguments)) => arguments,
                    Some(_) => {
                        return Err(RpcError::invalid_params("`arguments` is not an object"));
                    }
                };
                let token = token(&params)?;
                return work(session, id, Task::Tool(tool, arguments), token);
            }
            _ => return Err(RpcError::no_method(method)),
        };
        Ok(Step::Reply(reply(id, Ok(result))))
    }
}

/// Whether this server has a method.
pub(crate) fn is_known(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "tools/list"
            | "tools/call"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    )
}

impl Work {
    /// The reply if it cannot be done.
    pub(crate) fn refuse(&self, reason: &str) -> Value {
        reply(self.running.id(), Err(RpcError::busy(reason)))
    }

    /// Does it. Returns the reply, unless the client cancelled it.
    pub(crate) fn run(
        self,
        server: &Server,
        sink: &dyn Sink,
        origin: Option<&str>,
    ) -> Option<Value> {
        let Self { running, task, token } = self;
        if running.cancellation.is_cancelled() {
            return None;
        }
        let context = (running.session(), &running.cancellation);
        let call = Call::new(&server.0, context, (sink, token), origin);
        let result = match task {
            Task::Tool(tool, arguments) => tool::run(&call, tool, arguments),
            Task::Read(uri) => resource::read(&call, &uri),
        };
        if running.cancellation.is_cancelled() {
            return None;
        }
        match result {
            Ok(result) => Some(reply(running.id(), Ok(result))),
            Err(Failure::Error(text)) => Some(reply(running.id(), Ok(tool::failed(&text)))),
            Err(Failure::Protocol(error)) => Some(reply(running.id(), Err(error))),
            Err(Failure::Cancelled) => None,
        }
    }
}

fn work(
    session: &Arc<Session>,
    id: &Id,
    task: Task,
    token: Option<Value>,
) -> Result<Step, RpcError> {
    let running = Session::begin(session, id)?;
    Ok(Step::Run(Box::new(Work { running, task, token })))
}

/// A list that is always one page.
fn one_page(params: &Map<String, Value>, list: Value) -> Result<Value, RpcError> {
    match params.get("cursor") {
        None | Some(Value::Null) => Ok(list),
        Some(_) => Err(RpcError::invalid_params("`cursor` is not one that this server gave")),
    }
}

fn text(params: &mut Map<String, Value>, name: &str) -> Result<String, RpcError> {
    match params.remove(name) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(RpcError::invalid_params(format!("`{name}` is missing or not a string"))),
    }
}

/// The token of a client that wants reports of progress.
fn token(params: &Map<String, Value>) -> Result<Option<Value>, RpcError> {
    let Some(token) = params.get("_meta").and_then(|meta| meta.get("progressToken")) else {
        return Ok(None);
    };
    if Id::of(token).is_none() {
        let message = "`progressToken` is neither a string nor an integer";
        return Err(RpcError::invalid_params(message));
    }
    Ok(Some(token.clone()))
}
