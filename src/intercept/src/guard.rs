//! What one VM is let pass.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use sandbox::{Cause, EgressObserver, Interceptor};

use crate::credential::Credentials;
use crate::masked::MaskedRecord;
use crate::message::Registration;
use crate::policy::{Policy, Secret};
use crate::proxy::{Admitted, Proxy};
use crate::record::Record;
use crate::watch::Lookout;

/// What one VM is let pass, and what is added to what it sends.
#[derive(Clone)]
pub struct Guard {
    proxy: Arc<Proxy>,
    policy: Policy,
    secrets: Vec<Secret>,
    hidden: Vec<String>,
    record: Option<Arc<Record>>,
    bodies: bool,
    private: Vec<String>,
    credentials: Option<Arc<dyn Credentials>>,
}

impl Guard {
    /// Lets pass what the policy does.
    pub fn new(proxy: &Arc<Proxy>, policy: Policy) -> Self {
        let proxy = Arc::clone(proxy);
        let (secrets, hidden, private) = (Vec::new(), Vec::new(), Vec::new());
        let (record, bodies, credentials) = (None, false, None);
        Self { proxy, policy, secrets, hidden, record, bodies, private, credentials }
    }

    /// With values that the VM has placeholders of.
    #[must_use]
    pub fn with_secrets(self, secrets: Vec<Secret>) -> Self {
        Self { secrets, ..self }
    }

    /// With other values that must not be on record.
    #[must_use]
    pub fn hiding(self, hidden: Vec<String>) -> Self {
        Self { hidden, ..self }
    }

    /// With a record of it all, if any.
    #[must_use]
    pub fn with_record(self, record: Option<Arc<Record>>) -> Self {
        Self { record, ..self }
    }

    /// With the beginnings of bodies on record, if so.
    #[must_use]
    pub fn with_bodies(self, bodies: bool) -> Self {
        Self { bodies, ..self }
    }

    /// With hosts whose bodies are never on record, such as the platform's own; named as in
    /// [`Policy::allow`].
    #[must_use]
    pub fn with_private_hosts(self, private: Vec<String>) -> Self {
        Self { private, ..self }
    }

    /// With values for the APIs of the policy that have some, if any have.
    #[must_use]
    pub fn with_credentials(self, credentials: Option<Arc<dyn Credentials>>) -> Self {
        Self { credentials, ..self }
    }
}

impl Guard {
    fn masked_record(&self) -> crate::Result<Option<MaskedRecord>> {
        let Some(record) = &self.record else { return Ok(None) };
        let values = self.secrets.iter().map(|secret| &secret.value);
        let secrets = values.chain(&self.hidden);
        Ok(Some(MaskedRecord::new(Arc::clone(record), secrets)?))
    }
}

impl Interceptor for Guard {
    fn register(
        &self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> Result<Box<dyn sandbox::Registration>, Cause> {
        let pass = Registration {
            policy: self.policy.clone(),
            secrets: self.secrets.clone(),
            hidden: self.hidden.clone(),
            // Nobody would see them.
            bodies: self.bodies && self.record.is_some(),
            private: self.private.clone(),
        };
        let record = self.masked_record()?.map(Arc::new);
        let admitted =
            Admitted { pass, record: record.clone(), credentials: self.credentials.clone() };
        let names = self.proxy.register(address, admitted, deadline)?;
        let lookout = Arc::new(Lookout { names, record });
        Ok(Box::new(Entered { proxy: Arc::clone(&self.proxy), address, lookout }))
    }

    fn certificate(&self) -> &str {
        self.proxy.certificate()
    }
}

/// A VM that was let in. Dropping it closes all that it has open.
struct Entered {
    proxy: Arc<Proxy>,
    address: Ipv4Addr,
    lookout: Arc<Lookout>,
}

impl sandbox::Registration for Entered {
    fn port(&self) -> u16 {
        self.proxy.port()
    }

    fn observer(&self) -> Arc<dyn EgressObserver> {
        Arc::clone(&self.lookout) as Arc<dyn EgressObserver>
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.proxy.unregister(self.address);
    }
}
