//! A sandbox's VM, and the handle for calls on it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use base::error::chain;
use base::event::Event;
use base::sync::Mutex;
use crossbeam_channel::Receiver;
use sandbox::{Network, Sandbox, SandboxConfig};

use super::budget::Share;
use super::error::{Error, Result};
use crate::launcher::{Launched, Reservation};

/// A VM with what it takes. The order of the fields is the order in which they are dropped.
pub(super) struct Vm {
    sandbox: Box<dyn Sandbox>,
    reservation: Mutex<Box<dyn Reservation>>,
    share: Mutex<Share>,
    config: Mutex<SandboxConfig>,
}

impl Vm {
    pub(super) fn new(launched: Launched, share: Share) -> Self {
        let Launched { sandbox, config, reservation } = launched;
        let (reservation, share) = (Mutex::new(reservation), Mutex::new(share));
        Self { sandbox, reservation, share, config: Mutex::new(config) }
    }

    pub(super) fn config(&self) -> SandboxConfig {
        self.config.lock().clone()
    }

    /// Disconnects when it ends.
    pub(super) fn ended(&self) -> Receiver<()> {
        self.sandbox.ended()
    }

    /// Pauses it and gives its vCPUs back. After an error it can only be ended.
    pub(super) fn pause(&self, deadline: Instant) -> sandbox::Result<()> {
        self.sandbox.park(deadline)?;
        self.reservation.lock().pause();
        self.share.lock().pause();
        Ok(())
    }

    /// Takes the vCPUs that the pause gave back.
    pub(super) fn take_cpus(&self) -> Result<()> {
        self.share.lock().resume().map_err(Error::TooMany)?;
        let taken = self.reservation.lock().resume();
        if taken.is_err() {
            self.share.lock().pause();
        }
        Ok(taken?)
    }

    /// Lets it run again. After an error it can only be ended.
    pub(super) fn resume(&self, deadline: Instant) -> sandbox::Result<()> {
        self.sandbox.assign(&self.config(), deadline)
    }

    /// Puts another network in force, now and after pauses. After an error it can only be ended.
    pub(super) fn set_network(&self, network: Network, deadline: Instant) -> sandbox::Result<()> {
        // First for the next resume: a pause may come in between, and the VM then stays closed.
        self.config.lock().network = Some(network.clone());
        self.sandbox.set_network(&network, deadline)
    }

    /// Kills it, if no call uses it; else the last call's end does.
    pub(super) fn end(self: Arc<Self>, id: &str) {
        let Some(vm) = Arc::into_inner(self) else { return };
        if let Err(error) = vm.sandbox.kill() {
            log::error!(
                "a sandbox's VM did not end in order; sandbox={id} error={}",
                chain(&error)
            );
        }
    }
}

/// A sandbox that runs, for calls on it. The VM stays until this is dropped, so it is held for one call
/// with a deadline and not while a stream is open.
#[derive(Clone)]
pub struct RunningSandbox {
    vm: Arc<Vm>,
    closed: Arc<Event>,
}

impl RunningSandbox {
    pub(super) fn new(vm: Arc<Vm>, closed: Arc<Event>) -> Self {
        Self { vm, closed }
    }

    /// Set when the sandbox is paused or ended: calls and streams then end.
    pub fn closed(&self) -> &Arc<Event> {
        &self.closed
    }
}

impl Deref for RunningSandbox {
    type Target = dyn Sandbox;

    fn deref(&self) -> &Self::Target {
        &*self.vm.sandbox
    }
}
