//! A VM's lease of a network from the pool.
//!
//! ```text
//!            assign                  close
//!  closed ──────────▶ in use ──────────────────▶ closed
//!    │    the interceptor registers the    nothing passes, nothing is published,
//!    │    VM; the policy comes last        the interceptor unregisters the VM
//!    └── a warm or parked VM
//! ```

use std::any::Any;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use netns::{GuestPorts, Lease, ListenerCallback, Pool};
use sandbox::{Interception, Network, Publish, Registration};
use vsock_host::Ports;

use crate::{Error, Result};

/// A VM's network; empty if the VM has no network card.
#[derive(Default)]
pub(crate) struct Attachment {
    /// The interceptor's registration of the VM; dropped before the lease.
    registration: Option<Box<dyn Registration>>,
    lease: Option<Lease>,
}

impl Attachment {
    /// A leased network that passes no traffic yet.
    pub(crate) fn closed(pool: &Pool, deadline: Instant) -> Result<Self> {
        let mut lease = pool.lease(deadline).map_err(Error::Network)?;
        lease.close().map_err(Error::Network)?;
        log::debug!("network leased; link={}", lease.link().unwrap_or_default());
        Ok(Self { registration: None, lease: Some(lease) })
    }

    /// A network with `wanted` in force; returns the ports that are published.
    pub(crate) fn leased(
        pool: &Pool,
        wanted: &Network,
        deadline: Instant,
    ) -> Result<(Self, Vec<Publish>)> {
        let lease = pool.lease(deadline).map_err(Error::Network)?;
        log::debug!("network leased; link={}", lease.link().unwrap_or_default());
        let mut attachment = Self { registration: None, lease: Some(lease) };
        let published = attachment.assign(wanted, deadline)?;
        Ok((attachment, published))
    }

    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Puts `wanted` in force; returns the ports that are published. The policy is applied last, when
    /// everything that the traffic passes through is in place.
    pub(crate) fn assign(&mut self, wanted: &Network, deadline: Instant) -> Result<Vec<Publish>> {
        let lease = self.lease.as_mut().ok_or(Error::NoNetworks)?;
        if let Some(interceptor) = &wanted.intercept {
            self.registration = Some(intercept(lease, interceptor, deadline)?);
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

    /// Replaces the policy and the limits; nothing else changes.
    pub(crate) fn set_policy(&mut self, wanted: &Network) -> Result<()> {
        let lease = self.lease.as_mut().ok_or(Error::NoNetworks)?;
        lease.apply(wanted).map_err(Error::Network)
    }

    /// Has published ports reach what listens on the guest's 127.0.0.1 alone, by way of its service.
    pub(crate) fn reach(&mut self, ports: Ports) {
        if let Some(lease) = &mut self.lease {
            lease.reach(Arc::new(ByService(ports)));
        }
    }

    /// Stops all traffic.
    pub(crate) fn close(&mut self) -> Result<()> {
        if let Some(lease) = &mut self.lease {
            lease.close().map_err(Error::Network)?;
        }
        self.registration = None;
        Ok(())
    }
}

/// The guest's own way to its ports: its service connects, over the guest link.
struct ByService(Ports);

impl GuestPorts for ByService {
    fn connect(&self, port: u16, connection: TcpStream, guard: Box<dyn Any + Send>) {
        // Without a reactor the VM is at its end, and the connection with it.
        if let Err(error) = self.0.connect(port, connection.into(), guard) {
            log::debug!("a connection to a guest's port fails; port={port} error={error}");
        }
    }

    fn watch(&self, ports: Vec<u16>, notify: ListenerCallback) {
        if let Err(error) = self.0.watch(ports, notify) {
            log::debug!("a guest's ports are not watched; error={error}");
        }
    }
}

/// Registers the VM at the interceptor, and redirects its TCP there.
fn intercept(
    lease: &mut Lease,
    interceptor: &Interception,
    deadline: Instant,
) -> Result<Box<dyn Registration>> {
    let address = lease.address().map_err(Error::Network)?;
    let registration = interceptor.register(address, deadline).map_err(Error::Intercept)?;
    lease.intercept(registration.port(), registration.observer()).map_err(Error::Network)?;
    Ok(registration)
}
