//! Why a VM ended, for callers that had something under way in it.
//!
//! A guest's connection breaks before the reason is known: the VM's thread sees the monitor's exit at
//! about the same time. A caller that loses the guest therefore waits up to [`TIMEOUT`] for the reason.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::error::chain;
use crossbeam_channel::{Receiver, Sender, bounded};
use sandbox::Cause;

use crate::Error;

/// How long to wait for a reason. There is none if only the guest's service died.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Set once by the VM's thread, read by its callers.
#[derive(Debug)]
pub(crate) struct ExitReason {
    reason: OnceLock<String>,
    published: Receiver<()>,
}

/// Dropped by the VM's thread when the reason is set, or when there will be none.
pub(crate) type Publisher = Sender<()>;

impl ExitReason {
    pub(crate) fn new() -> (Self, Publisher) {
        let (publisher, published) = bounded(0);
        (Self { reason: OnceLock::new(), published }, publisher)
    }

    /// Sets the reason; the first one stands. The caller then drops the [`Publisher`].
    pub(crate) fn set(&self, error: &Error) {
        self.reason.get_or_init(|| chain(error));
    }

    /// The reason, or `None` if none is published within [`TIMEOUT`].
    pub(crate) fn wait(&self) -> Option<&String> {
        let _ = self.published.recv_timeout(TIMEOUT);
        self.reason.get()
    }
}

/// Replaces a lost guest link's error by the reason why the VM ended.
#[derive(Debug, Clone)]
pub(crate) struct ErrorContext(Option<Arc<ExitReason>>);

impl ErrorContext {
    /// For a VM of this process.
    pub(crate) fn owned(reason: &Arc<ExitReason>) -> Self {
        Self(Some(Arc::clone(reason)))
    }

    /// For another process's VM: only its owner knows the reason.
    pub(crate) fn attached() -> Self {
        Self(None)
    }

    pub(crate) fn cause(&self, error: vsock_host::Error) -> Cause {
        let is_lost = matches!(error, vsock_host::Error::Lost { .. });
        let reason = self.0.as_ref().filter(|_| is_lost);
        match reason.and_then(|reason| reason.wait()) {
            Some(reason) => Error::Gone { reason: reason.clone() }.into(),
            None => error.into(),
        }
    }
}
