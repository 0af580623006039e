//! Credentials that the proxy adds to requests to an API, fetched when it needs them.
//!
//! A provider may have to ask the platform, which takes time, so threads of their own call it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use serde::Serialize;

use crate::handle::Handle;
use crate::{Error, Result};

/// Concurrent calls of providers.
const THREADS: usize = 4;
/// The limit of waiting requests.
const QUEUE: usize = 64;

/// Provides the credentials for the APIs of one VM.
pub trait CredentialProvider: Send + Sync {
    /// The credential for an API, by its index in the policy. `force` requests a new one, as the API has
    /// rejected the last one. May block for a few seconds.
    fn get(&self, api: usize, force: bool) -> std::result::Result<Credential, CredentialError>;
}

/// What the proxy adds to requests to an API.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Headers, which replace those of the VM.
    pub headers: BTreeMap<String, String>,
    /// Query parameters, which replace those of the VM.
    pub query: BTreeMap<String, String>,
    /// The base URL to use instead of the one in the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The names of the secrets that it was made of.
    pub resolved_secrets: Vec<String>,
    /// When it expires, in seconds since 1970; soon if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// There is no credential, so the request is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialError {
    /// The HTTP status for the VM.
    pub status: u16,
    /// The reason for the VM, without secrets.
    pub reason: String,
}

/// Without the values.
impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = &self.resolved_secrets;
        formatter.debug_struct("Credential").field("names", names).finish_non_exhaustive()
    }
}

/// The proxy's request for a credential.
pub(crate) struct CredentialRequest {
    pub(crate) id: u64,
    pub(crate) vm: Ipv4Addr,
    pub(crate) api: usize,
    pub(crate) force: bool,
    pub(crate) credentials: Arc<dyn CredentialProvider>,
}

/// The threads that call the providers. Dropping this ends each after its current request.
pub(crate) struct CredentialWorkers {
    requests: Option<Sender<CredentialRequest>>,
    threads: Vec<JoinHandle<()>>,
}

impl CredentialWorkers {
    pub(crate) fn start(handle: &Handle) -> Result<Self> {
        let (requests, queue) = bounded(QUEUE);
        let mut workers = Self { requests: Some(requests), threads: Vec::new() };
        for number in 1..=THREADS {
            let (queue, handle) = (queue.clone(), handle.clone());
            let thread =
                base::thread::spawn(format!("credential-{number}"), move || run(&queue, &handle));
            let name = || format!("credential-{number}");
            let thread = thread.map_err(|source| Error::Thread { name: name(), source })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Queues a request. Fails if the queue is full.
    pub(crate) fn submit(
        &self,
        request: CredentialRequest,
    ) -> std::result::Result<(), CredentialError> {
        let busy = || CredentialError {
            status: 503,
            reason: "too many requests for credentials are waiting".to_owned(),
        };
        let requests = self.requests.as_ref().ok_or_else(busy)?;
        requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => busy(),
        })
    }
}

impl Drop for CredentialWorkers {
    fn drop(&mut self) {
        drop(self.requests.take());
        for thread in self.threads.drain(..) {
            base::thread::join(thread);
        }
    }
}

fn run(queue: &Receiver<CredentialRequest>, handle: &Handle) {
    for request in queue {
        let CredentialRequest { id, vm, api, force, credentials } = request;
        let answer = credentials.get(api, force);
        match &answer {
            Ok(credential) => log::debug!("credential; vm={vm} api={api} names={credential:?}"),
            Err(CredentialError { status, reason }) => {
                log::warn!("no credential; vm={vm} api={api} status={status} reason={reason:?}");
            }
        }
        handle.credential(id, answer);
    }
}
