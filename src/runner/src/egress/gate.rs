//! The proxies of this process: mitmproxy is one thread, so several share the VMs. Each is started when
//! the first of its VMs is to be let in.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use intercept::{CertificateAuthority, InterceptionConfig, Proxy, ProxyConfig};
use sandbox::{Cause, Interception, Interceptor, Registration};

use crate::error::{Error, Result};
use crate::options::Global;
use crate::vmm;

/// As many processors are used by proxies at most.
const MOST: usize = 8;
/// Where a program that is not on PATH is named.
const PROGRAM: &str = "RUNNER_MITMDUMP";
/// Whom the proxy trusts, if not the host's store.
const ROOTS: &str = "SSL_CERT_FILE";

/// The proxies, and what they are started from.
pub(crate) struct Gate {
    config: ProxyConfig,
    /// As many at most: one for each processor, as each has memory of its own.
    most: usize,
    proxies: Mutex<Proxies>,
}

#[derive(Default)]
struct Proxies {
    started: Vec<Arc<Proxy>>,
    /// How many VMs were let in.
    vms: usize,
}

impl Gate {
    /// Makes the host's certificate authority, if it has none.
    pub(crate) fn open(global: &Global) -> Result<Arc<Self>> {
        Self::at(&global.state_dir, &global.runtime_dir)
    }

    /// As [`open`](Self::open).
    pub(crate) fn at(state_dir: &Path, runtime_dir: &Path) -> Result<Arc<Self>> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let authority = CertificateAuthority::open(state_dir).map_err(intercept_error)?;
        let config = ProxyConfig {
            program: program(),
            runtime_dir: runtime_dir.to_owned(),
            authority,
            roots: path(ROOTS),
            host_filter: vmm::proxy_filter(),
        };
        let most = std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST));
        Ok(Arc::new(Self { config, most, proxies: Mutex::default() }))
    }

    /// Begins to start the first one, unless it was.
    pub(crate) fn warm_up(&self) -> Result<()> {
        self.take(0).map(drop)
    }

    /// The one for the next VM: they take turns.
    fn next(&self) -> Result<Arc<Proxy>> {
        self.take(1)
    }

    fn take(&self, vms: usize) -> Result<Arc<Proxy>> {
        // What is in it is whole at any time.
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = proxies.vms % self.most;
        proxies.vms += vms;
        if let Some(proxy) = proxies.started.get(turn) {
            return Ok(Arc::clone(proxy));
        }
        let started = Arc::new(Proxy::start(self.config.clone()).map_err(intercept_error)?);
        proxies.started.push(Arc::clone(&started));
        Ok(started)
    }

    /// Lets one VM pass what the guard does that is made for it.
    pub(crate) fn interception(
        self: &Arc<Self>,
        guard: impl Fn(&Arc<Proxy>) -> InterceptionConfig + Send + Sync + 'static,
    ) -> Interception {
        Interception::new(Arc::new(Door { gate: Arc::clone(self), guard: Box::new(guard) }))
    }
}

/// Makes a guard.
type Make = dyn Fn(&Arc<Proxy>) -> InterceptionConfig + Send + Sync;

/// Where a VM is let in.
struct Door {
    gate: Arc<Gate>,
    guard: Box<Make>,
}

impl Interceptor for Door {
    fn register(
        &self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> std::result::Result<Box<dyn Registration>, Cause> {
        let proxy = self.gate.next()?;
        (self.guard)(&proxy).register(address, deadline)
    }

    fn certificate(&self) -> &str {
        self.gate.config.authority.certificate()
    }
}

/// The proxy's program, if it is named.
pub(super) fn program() -> Option<PathBuf> {
    std::env::var_os(PROGRAM).map(PathBuf::from)
}

pub(crate) fn intercept_error(error: intercept::Error) -> Error {
    Error::Intercept(error)
}
