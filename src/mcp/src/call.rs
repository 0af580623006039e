//! A call that runs: what tools get and return.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use sandbox::Cancellation;
use sandbox_api::{CreateRequest, Error, Login, ManagedSandbox, RunningSandbox, Sandboxes, files};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::implicit::Turn;
use crate::message;
use crate::options::Options;
use crate::session::Session;

/// How long a sandbox may take for one operation.
const OPERATION: Duration = Duration::from_secs(60);

/// What a call sends before its reply.
pub(crate) trait Sink {
    /// Sends a message. A client that is gone is ignored: the reply will not reach it either.
    fn send(&self, message: &Value);

    /// Shows that the call is alive, where the transport has a way to.
    fn beat(&self) {}
}

/// A call of a tool, or a read of a resource.
pub(crate) struct Call<'a> {
    pub(crate) context: &'a Context,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) cancellation: &'a Cancellation,
    pub(crate) sink: &'a dyn Sink,
    /// How the client reached the server, if by HTTP: `https://example.com`.
    pub(crate) origin: Option<&'a str>,
    progress: Option<Progress>,
    notes: RefCell<Vec<String>>,
}

struct Progress {
    token: Value,
    count: Cell<u64>,
}

impl<'a> Call<'a> {
    /// `token` is that of the client for reports of progress.
    pub(crate) fn new(
        context: &'a Context,
        (session, cancellation): (&'a Arc<Session>, &'a Cancellation),
        (sink, token): (&'a dyn Sink, Option<Value>),
        origin: Option<&'a str>,
    ) -> Self {
        let progress = token.map(|token| Progress { token, count: Cell::new(0) });
        let notes = RefCell::default();
        Self { context, session, cancellation, sink, origin, progress, notes }
    }

    pub(crate) fn sandboxes(&self) -> &Arc<Sandboxes> {
        &self.context.sandboxes
    }

    pub(crate) fn options(&self) -> &Options {
        &self.context.options
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + OPERATION
    }

    pub(crate) fn timeout(&self) -> Duration {
        OPERATION
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.cancellation.is_cancelled() { Err(Failure::Cancelled) } else { Ok(()) }
    }

    /// Tells the client how far the call is, if it asked for that.
    pub(crate) fn report(&self, text: &str) {
        let Some(Progress { token, count }) = &self.progress else { return self.sink.beat() };
        count.set(count.get() + 1);
        let params = json!({"progressToken": token, "progress": count.get(), "message": text});
        self.sink.send(&message::notification("notifications/progress", &params));
    }

    /// Adds something to the result that the model should know.
    pub(crate) fn note(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }

    pub(crate) fn take_notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// The sandbox of this id, or that of calls without one. It is resumed if it is paused, and stays for
    /// its time-out from now, or for `needed` if that is longer.
    pub(crate) fn enter(&self, id: Option<&str>, needed: Duration) -> Result<Entered> {
        let sandbox = match id {
            Some(id) => self.find(id)?,
            None => self.implicit()?,
        };
        self.check()?;
        let most = self.sandboxes().settings().max_timeout;
        let timeout = sandbox.timeout().max(needed).min(most);
        self.sandboxes()
            .connect(&self.session.caller, sandbox.id(), timeout)
            .map_err(|error| self.failure(&error))?;
        let running = self.sandboxes().enter(&sandbox).map_err(|error| self.failure(&error))?;
        Ok(Entered { sandbox, running })
    }

    fn find(&self, id: &str) -> Result<Arc<ManagedSandbox>> {
        let found = self.sandboxes().get(&self.session.caller, id);
        found.map_err(|error| self.failure(&error))
    }

    fn implicit(&self) -> Result<Arc<ManagedSandbox>> {
        let mut has_ended = false;
        loop {
            let creation = match self.session.implicit.turn(|| self.cancellation.is_cancelled()) {
                Turn::Cancelled => return Err(Failure::Cancelled),
                Turn::Create(creation) => creation,
                Turn::Use(id) => match self.sandboxes().get(&self.session.caller, &id) {
                    Ok(sandbox) => return Ok(sandbox),
                    Err(_) => {
                        has_ended = true;
                        self.session.implicit.forget(&id);
                        continue;
                    }
                },
            };
            let sandbox = self.create(CreateRequest::new(self.default_template()?))?;
            creation.finish(sandbox.id().to_owned());
            let (id, template) = (sandbox.id(), &sandbox.template().name);
            let before = if has_ended { ". The one before has ended, with its files" } else { "" };
            self.note(format!("new sandbox {id} of the template `{template}`{before}"));
            return Ok(sandbox);
        }
    }

    /// Creates a sandbox. Blocks until it takes commands.
    pub(crate) fn create(&self, mut request: CreateRequest) -> Result<Arc<ManagedSandbox>> {
        self.check()?;
        request.timeout = request.timeout.or(self.options().timeout);
        self.report("starting the sandbox");
        let created = self.sandboxes().create(&self.session.caller, request);
        created.map_err(|error| self.failure(&error))
    }

    /// The template of sandboxes for which none is named.
    pub(crate) fn default_template(&self) -> Result<String> {
        if let Some(name) = &self.options().template {
            return Ok(name.clone());
        }
        let templates = self.sandboxes().templates();
        let named = |name: &str| templates.iter().find(|template| template.name == name);
        let template = named("base").or_else(|| named("default")).or_else(|| templates.first());
        let template = template.map(|template| template.name.clone());
        template.ok_or_else(|| {
            Failure::new("there is no template: `runner image build base` on the host makes one")
        })
    }

    /// What went wrong with a sandbox, with what to do.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        let what_to_do = match error {
            Error::NotFound { .. } => {
                ": it may have reached its timeout. list_sandboxes shows those that exist; without \
                 `sandbox_id` a call uses one that is created when needed"
            }
            Error::NoTemplate { .. } => ": the description of create_sandbox lists the templates",
            Error::TooMany(_) => ": end a sandbox with end_sandbox",
            Error::Launch(sandbox_api::LaunchError::NoRoom { .. }) => {
                ": end a sandbox that is not needed with end_sandbox, or try again later"
            }
            _ => "",
        };
        if matches!(error, Error::Launch(_)) {
            log::warn!("a sandbox was not started; error={}", chain(error));
        }
        Failure::Error(format!("{}{what_to_do}", chain(error)))
    }
}

/// A sandbox that runs, for one operation: its VM stays until this is dropped.
pub(crate) struct Entered {
    pub(crate) sandbox: Arc<ManagedSandbox>,
    pub(crate) running: RunningSandbox,
}

impl Entered {
    /// The user of this name, or the default one.
    pub(crate) fn login(&self, call: &Call<'_>, user: Option<&str>) -> Result<Login> {
        let login = self.sandbox.login(&self.running, user, call.deadline());
        login.map_err(|error| self.file_failure(&error))
    }

    pub(crate) fn file_failure(&self, error: &files::Error) -> Failure {
        let sandbox = self.sandbox.id();
        match error {
            files::Error::Sandbox(_) => {
                Failure::new(format!("sandbox {sandbox}: {}", chain(error)))
            }
            _ => Failure::new(chain(error)),
        }
    }
}
