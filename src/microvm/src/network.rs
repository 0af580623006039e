//! What a VM has of the pool of networks.
//!
//! ```text
//!            assign                  close
//!  closed ──────────▶ in use ──────────────────▶ closed
//!    │    who intercepts lets the VM in;   nothing passes, nothing is published,
//!    │    the policy comes last            and whoever intercepted it is told
//!    └── a VM that nobody has yet, or that is parked
//! ```

use std::time::Instant;

use netns::{Lease, Pool};
use sandbox::{Interception, Network, Pass, Publish};

use crate::{Error, Result};

/// A VM's network; none if it has no network card.
#[derive(Default)]
pub(crate) struct Attachment {
    /// Of whoever intercepts it; it goes before the lease.
    pass: Option<Box<dyn Pass>>,
    lease: Option<Lease>,
}

impl Attachment {
    /// A network that lets nothing pass yet.
    pub(crate) fn closed(pool: Option<&Pool>, deadline: Instant) -> Result<Self> {
        let pool = pool.ok_or(Error::NoNetworks)?;
        let mut lease = pool.lease(deadline).map_err(Error::Network)?;
        lease.close().map_err(Error::Network)?;
        log::debug!("network leased; link={}", lease.link().unwrap_or_default());
        Ok(Self { pass: None, lease: Some(lease) })
    }

    /// A network as it is wanted.
    pub(crate) fn leased(
        pool: Option<&Pool>,
        wanted: &Network,
        deadline: Instant,
    ) -> Result<(Self, Vec<Publish>)> {
        let pool = pool.ok_or(Error::NoNetworks)?;
        let lease = pool.lease(deadline).map_err(Error::Network)?;
        log::debug!("network leased; link={}", lease.link().unwrap_or_default());
        let mut attachment = Self { pass: None, lease: Some(lease) };
        let published = attachment.assign(wanted, deadline)?;
        Ok((attachment, published))
    }

    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Makes it as it is wanted; returns which ports are published where. What is let pass is decided
    /// last, when all is in place that it is to pass through.
    pub(crate) fn assign(&mut self, wanted: &Network, deadline: Instant) -> Result<Vec<Publish>> {
        let lease = self.lease.as_mut().ok_or(Error::NoNetworks)?;
        if let Some(interceptor) = &wanted.intercept {
            self.pass = Some(intercept(lease, interceptor, deadline)?);
        }
        let mut published = Vec::new();
        for publish in &wanted.publish {
            let host = lease.publish(publish).map_err(Error::Network)?;
            published.push(Publish { host, ..*publish });
        }
        for service in &wanted.services {
            lease.serve(service).map_err(Error::Network)?;
        }
        lease.apply(wanted).map_err(Error::Network)?;
        Ok(published)
    }

    /// Lets nothing pass any more.
    pub(crate) fn close(&mut self) -> Result<()> {
        if let Some(lease) = &mut self.lease {
            lease.close().map_err(Error::Network)?;
        }
        self.pass = None;
        Ok(())
    }
}

/// Lets the VM in where all that it sends is to arrive, and has it arrive there.
fn intercept(
    lease: &mut Lease,
    interceptor: &Interception,
    deadline: Instant,
) -> Result<Box<dyn Pass>> {
    let address = lease.address().map_err(Error::Network)?;
    let pass = interceptor.admit(address, deadline).map_err(Error::Intercept)?;
    lease.intercept(pass.port(), pass.watch()).map_err(Error::Network)?;
    Ok(pass)
}
