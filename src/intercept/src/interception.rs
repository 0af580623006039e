//! The interception of one VM: its policy, secrets and log.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use sandbox::{Cause, EgressObserver, Interceptor};

use crate::credential::CredentialProvider;
use crate::handle::RegisteredVm;
use crate::masked_log::MaskedLog;
use crate::message::VmRegistration;
use crate::network_log::NetworkLogFile;
use crate::observer::RecordingObserver;
use crate::policy::{Policy, Secret};
use crate::proxy::Proxy;

/// The configuration of the interception of one VM.
#[derive(Clone)]
pub struct InterceptionConfig {
    proxy: Arc<Proxy>,
    policy: Policy,
    secrets: Vec<Secret>,
    hidden: Vec<String>,
    log: Option<Arc<NetworkLogFile>>,
    bodies: bool,
    private: Vec<String>,
    credentials: Option<Arc<dyn CredentialProvider>>,
}

impl InterceptionConfig {
    /// Interception with a policy, without secrets and without a log.
    pub fn new(proxy: &Arc<Proxy>, policy: Policy) -> Self {
        let proxy = Arc::clone(proxy);
        let (secrets, hidden, private) = (Vec::new(), Vec::new(), Vec::new());
        let (log, bodies, credentials) = (None, false, None);
        Self { proxy, policy, secrets, hidden, log, bodies, private, credentials }
    }

    /// Sets the secrets that replace placeholders.
    #[must_use]
    pub fn with_secrets(self, secrets: Vec<Secret>) -> Self {
        Self { secrets, ..self }
    }

    /// Sets further values to mask in the log.
    #[must_use]
    pub fn hiding(self, hidden: Vec<String>) -> Self {
        Self { hidden, ..self }
    }

    /// Sets the log.
    #[must_use]
    pub fn with_log(self, log: Option<Arc<NetworkLogFile>>) -> Self {
        Self { log, ..self }
    }

    /// Sets whether the beginning of each body is logged.
    #[must_use]
    pub fn with_bodies(self, bodies: bool) -> Self {
        Self { bodies, ..self }
    }

    /// Sets hosts whose bodies are never logged, such as the platform; in the form of
    /// [`Policy::allow`].
    #[must_use]
    pub fn with_private_hosts(self, private: Vec<String>) -> Self {
        Self { private, ..self }
    }

    /// Sets the provider of credentials for the APIs of the policy.
    #[must_use]
    pub fn with_credentials(self, credentials: Option<Arc<dyn CredentialProvider>>) -> Self {
        Self { credentials, ..self }
    }
}

impl InterceptionConfig {
    fn masked_log(&self) -> crate::Result<Option<MaskedLog>> {
        let Some(log) = &self.log else { return Ok(None) };
        let values = self.secrets.iter().map(|secret| &secret.value);
        let secrets = values.chain(&self.hidden);
        Ok(Some(MaskedLog::new(Arc::clone(log), secrets)?))
    }
}

impl Interceptor for InterceptionConfig {
    fn register(
        &self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> Result<Box<dyn sandbox::Registration>, Cause> {
        let registration = VmRegistration {
            policy: self.policy.clone(),
            secrets: self.secrets.clone(),
            hidden: self.hidden.clone(),
            // Bodies are only needed for the log.
            bodies: self.bodies && self.log.is_some(),
            private: self.private.clone(),
        };
        let log = self.masked_log()?.map(Arc::new);
        let admitted =
            RegisteredVm { registration, log: log.clone(), credentials: self.credentials.clone() };
        let names = self.proxy.register(address, admitted, deadline)?;
        let observer = Arc::new(RecordingObserver { names, log });
        Ok(Box::new(ActiveRegistration { proxy: Arc::clone(&self.proxy), address, observer }))
    }

    fn certificate(&self) -> &str {
        self.proxy.certificate()
    }
}

/// A registered VM. Dropping it closes its connections.
struct ActiveRegistration {
    proxy: Arc<Proxy>,
    address: Ipv4Addr,
    observer: Arc<RecordingObserver>,
}

impl sandbox::Registration for ActiveRegistration {
    fn port(&self) -> u16 {
        self.proxy.port()
    }

    fn observer(&self) -> Arc<dyn EgressObserver> {
        Arc::clone(&self.observer) as Arc<dyn EgressObserver>
    }
}

impl Drop for ActiveRegistration {
    fn drop(&mut self) {
        self.proxy.unregister(self.address);
    }
}
