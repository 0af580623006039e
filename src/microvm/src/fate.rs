//! Why a VM ended, for those who had something under way in it.
//!
//! A guest's connection breaks before anybody knows why: the monitor's end is seen by the VM's
//! thread, at about the same time. So whoever loses the guest waits a moment for the reason.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use sandbox::Cause;

use crate::Error;
use crate::error::chain;

/// How long to wait for a reason. A guest whose service died, and whose VM lives, has none.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Fate {
    reason: OnceLock<String>,
    sealed: Receiver<()>,
}

/// Dropping it seals the fate, with or without a reason.
pub(crate) type Seal = Sender<()>;

impl Fate {
    pub(crate) fn new() -> (Self, Seal) {
        let (seal, sealed) = bounded(0);
        (Self { reason: OnceLock::new(), sealed }, seal)
    }

    /// For the VM's thread, which drops the seal right after.
    pub(crate) fn tell(&self, error: &Error) {
        self.reason.get_or_init(|| chain(error));
    }

    /// Why it ended, if that is known soon.
    pub(crate) fn reason(&self) -> Option<&String> {
        let _ = self.sealed.recv_timeout(PATIENCE);
        self.reason.get()
    }
}

/// Makes of a guest link's error what a caller should read.
#[derive(Debug, Clone)]
pub(crate) struct Explainer(Option<Arc<Fate>>);

impl Explainer {
    /// For a VM of ours.
    pub(crate) fn of(fate: &Arc<Fate>) -> Self {
        Self(Some(Arc::clone(fate)))
    }

    /// For somebody else's VM, whose fate only its owner knows.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn cause(&self, error: vsock_host::Error) -> Cause {
        let is_lost = matches!(error, vsock_host::Error::Lost { .. });
        let fate = self.0.as_ref().filter(|_| is_lost);
        match fate.and_then(|fate| fate.reason()) {
            Some(reason) => Error::Gone { reason: reason.clone() }.into(),
            None => error.into(),
        }
    }
}
