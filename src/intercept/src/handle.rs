//! Requests to the thread `proxy`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base::event::Event;
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::credential::{Credential, CredentialError, CredentialProvider};
use crate::masked_log::MaskedLog;
use crate::message::VmRegistration;
use crate::observer::NamePolicy;
use crate::{Error, Result};

/// Sends requests to the thread. Clones address the same thread.
#[derive(Clone)]
pub(crate) struct Handle {
    requests: Sender<ProxyRequest>,
    pub(crate) event: Arc<Event>,
}

/// A request to the thread.
pub(crate) enum ProxyRequest {
    Register {
        vm: Ipv4Addr,
        guest: Box<RegisteredVm>,
        reply: Sender<Result<NamePolicy>>,
    },
    Unregister {
        vm: Ipv4Addr,
        /// Dropped when all connections are closed.
        done: Sender<()>,
    },
    Credential {
        id: u64,
        answer: std::result::Result<Credential, CredentialError>,
    },
    Stop,
}

/// A VM whose connections the proxy accepts.
pub(crate) struct RegisteredVm {
    pub(crate) registration: VmRegistration,
    pub(crate) log: Option<Arc<MaskedLog>>,
    pub(crate) credentials: Option<Arc<dyn CredentialProvider>>,
}

impl Handle {
    pub(crate) fn new() -> Result<(Self, Receiver<ProxyRequest>)> {
        let failed =
            |errno: nix::Error| Error::Socket { operation: "make an event", source: errno.into() };
        let (requests, requests_rx) = unbounded();
        let event = Arc::new(Event::new().map_err(failed)?);
        Ok((Self { requests, event }, requests_rx))
    }

    /// Passes a credential, or the reason why there is none, to the proxy.
    pub(crate) fn credential(
        &self,
        id: u64,
        answer: std::result::Result<Credential, CredentialError>,
    ) {
        self.send(ProxyRequest::Credential { id, answer });
    }

    pub(crate) fn send(&self, request: ProxyRequest) {
        // If the thread has ended, the request is dropped with its reply channel, which ends the wait.
        let _ = self.requests.send(request);
        self.event.set();
    }
}
