//! What the start of a VM needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::Pool;
use sandbox::{Cancellation, Publish, SandboxConfig};
use vsock_host::Reactor;

use crate::network::Attachment;
use crate::record::VmRecord;
use crate::snapshot::Snapshot;
use crate::vmm::Vmm;
use crate::{Error, Result};

/// What the start of a VM needs.
#[derive(Clone)]
pub(crate) struct StartRequest {
    pub(crate) state: PathBuf,
    pub(crate) config: SandboxConfig,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) reactor: Reactor,
    pub(crate) networks: Option<Arc<Pool>>,
    /// The snapshot to restore; without one the VM boots.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) purpose: Purpose,
    /// Ends the wait in the start queue.
    pub(crate) cancellation: Cancellation,
    /// How long the start has waited in the queue.
    pub(crate) queued: Duration,
    pub(crate) deadline: Instant,
}

/// What a VM is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To take commands once it has started.
    Assigned,
    /// To wait until it is assigned: its network is closed and its guest has no state yet.
    Warm,
}

impl StartRequest {
    /// Leases the VM's network; returns the ports that are published.
    pub(crate) fn lease_network(&self) -> Result<(Attachment, Vec<Publish>)> {
        let Some(network) = &self.config.network else {
            return Ok((Attachment::default(), Vec::new()));
        };
        let pool = self.networks.as_deref().ok_or(Error::NoNetworks)?;
        match self.purpose {
            Purpose::Warm => Ok((Attachment::closed(pool, self.deadline)?, Vec::new())),
            Purpose::Assigned => Attachment::leased(pool, network, self.deadline),
        }
    }

    /// The VM's first record.
    pub(crate) fn record(&self, published: Vec<Publish>) -> VmRecord {
        match self.purpose {
            Purpose::Warm => VmRecord::unassigned(&self.config, self.vmm.kind()),
            Purpose::Assigned => VmRecord::new(&self.config, self.vmm.kind(), published),
        }
    }
}
