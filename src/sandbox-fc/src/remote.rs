//! The use of Firecracker's API while a VM runs.

use std::time::Instant;

use microvm::{Remote, Result};

use crate::api::{BalloonSize, Client, VmState};
use crate::monitor::of;
use crate::snapshot;

/// The connection on which the VM was started: a hostile monitor cannot replace it.
pub(crate) struct Api(pub(crate) Client);

impl Remote for Api {
    fn pause(&mut self, deadline: Instant) -> Result<()> {
        snapshot::pause(&mut self.0, deadline).map_err(of)
    }

    fn resume(&mut self, deadline: Instant) -> Result<()> {
        self.0.send(&VmState::Resumed, deadline).map_err(of)
    }

    fn set_balloon(&mut self, mib: u32, deadline: Instant) -> Result<()> {
        self.0.send(&BalloonSize { amount_mib: mib }, deadline).map_err(of)
    }

    fn balloon(&mut self, deadline: Instant) -> Result<u32> {
        self.0.balloon(deadline).map(|balloon| balloon.actual_mib).map_err(of)
    }

    fn save(&mut self, deadline: Instant) -> Result<()> {
        snapshot::save(&mut self.0, deadline).map_err(of)
    }
}
