//! One sandbox of the registry: what its creator gave, its tokens, and its state.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::event::Event;
use base::sync::Mutex;
use crossbeam_channel::Receiver;

use super::life::{End, Life, Status};
use super::request::{CreateRequest, Lifecycle};
use super::vm::{RunningSandbox, Vm};
use crate::account::{Accounts, Login};
use crate::event_log::EventLog;
use crate::files::{self, Watchers};
use crate::launcher::{NetworkRequest, Template};
use crate::metrics::Samples;
use crate::process::Processes;

/// A sandbox of the registry.
pub struct ManagedSandbox {
    identity: Identity,
    request: CreateRequest,
    started_at: SystemTime,
    timeout: Duration,
    network: Mutex<NetworkRequest>,
    samples: Samples,
    log: Arc<EventLog>,
    life: Life,
    // Dropped after the VM.
    processes: Processes,
    accounts: Accounts,
    watchers: Watchers,
}

/// What distinguishes a sandbox from others.
pub(super) struct Identity {
    pub(super) id: String,
    /// The id of the key that it belongs to.
    pub(super) key: String,
    pub(super) template: Template,
    pub(super) envd_token: String,
    pub(super) traffic_token: Option<String>,
}

/// When a sandbox started, and when its time is over.
pub(super) struct Times {
    pub(super) started_at: SystemTime,
    pub(super) timeout: Duration,
    pub(super) end: End,
}

impl ManagedSandbox {
    pub(super) fn new(
        identity: Identity,
        request: CreateRequest,
        times: Times,
        (vm, closed): (Vm, Arc<Event>),
        log: EventLog,
    ) -> Self {
        let log = Arc::new(log);
        let Times { started_at, timeout, end } = times;
        let network = Mutex::new(request.network.clone());
        let life = Life::new(identity.id.clone(), vm, closed, end);
        Self {
            identity,
            request,
            started_at,
            timeout,
            network,
            samples: Samples::default(),
            log: Arc::clone(&log),
            life,
            processes: Processes::new(log),
            accounts: Accounts::default(),
            watchers: Watchers::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// The id of the key that it belongs to.
    pub fn key(&self) -> &str {
        &self.identity.key
    }

    /// Its template.
    pub fn template(&self) -> &Template {
        &self.identity.template
    }

    /// What its creator keeps with it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.request.metadata
    }

    /// The environment of its commands.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.request.env
    }

    /// What happens at its time-out, and to requests after it.
    pub fn lifecycle(&self) -> Lifecycle {
        self.request.lifecycle
    }

    /// Where it may connect to.
    pub fn network(&self) -> NetworkRequest {
        self.network.lock().clone()
    }

    pub(super) fn record_network(&self, network: NetworkRequest) {
        *self.network.lock() = network;
    }

    /// The Host header of requests to its ports; `${PORT}` stands for the port.
    pub fn mask_request_host(&self) -> Option<&str> {
        self.request.mask_request_host.as_deref()
    }

    /// The token of calls on its commands and files.
    pub fn envd_token(&self) -> &str {
        &self.identity.envd_token
    }

    /// The token of requests to its ports, unless they are public.
    pub fn traffic_token(&self) -> Option<&str> {
        self.identity.traffic_token.as_deref()
    }

    /// When it was created.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// The time-out that it was created with.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What it used.
    pub fn metrics(&self) -> &Samples {
        &self.samples
    }

    /// What happened to it.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// The processes that were started in it by calls.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The user of this name or number; if none is named, `user` where the image has that user, else root.
    pub fn login(
        &self,
        running: &RunningSandbox,
        name: Option<&str>,
        deadline: Instant,
    ) -> files::Result<Login> {
        self.accounts.login(running, name, deadline)
    }

    /// The environment of a command: the sandbox's variables, those that say what it is, and `asked`.
    pub fn environment(&self, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let own = [
            ("E2B_SANDBOX", "true"),
            ("E2B_SANDBOX_ID", self.id()),
            ("E2B_TEMPLATE_ID", &self.template().name),
        ];
        let mut env = self.env().clone();
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env.extend(asked.clone());
        env
    }

    /// The folders that its calls watch.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// Its state and end.
    pub fn status(&self) -> Status {
        self.life.status()
    }

    /// Disconnects when it has ended for good. A pause does not end it.
    pub fn ended(&self) -> &Receiver<Infallible> {
        self.life.ended()
    }

    /// The sandbox for calls, if it runs. See [`Sandboxes::enter`](super::Sandboxes::enter), which resumes
    /// one that is to be resumed by requests.
    pub fn running(&self) -> Option<RunningSandbox> {
        self.life.running()
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }
}
