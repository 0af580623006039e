//! The proxy of this process: started when the first VM is to be let in.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use intercept::{Authority, Config, Guard, Proxy};
use sandbox::{Cause, Interception, Interceptor, Pass};

use crate::cli::Global;
use crate::error::{Error, Result};

/// Where a program that is not on PATH is named.
const PROGRAM: &str = "RUNNER_MITMDUMP";
/// Whom the proxy trusts, if not the host's store.
const ROOTS: &str = "SSL_CERT_FILE";

/// The proxy, and what it is started from.
pub(crate) struct Gate {
    config: Config,
    proxy: Mutex<Option<Arc<Proxy>>>,
}

impl Gate {
    /// Makes the host's certificate authority, if it has none.
    pub(crate) fn open(global: &Global) -> Result<Arc<Self>> {
        Self::at(&global.state_dir, &global.runtime_dir)
    }

    /// As [`open`](Self::open).
    pub(crate) fn at(state_dir: &Path, runtime_dir: &Path) -> Result<Arc<Self>> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let authority = Authority::open(state_dir).map_err(intercept_error)?;
        let config = Config {
            program: path(PROGRAM),
            runtime_dir: runtime_dir.to_owned(),
            authority,
            roots: path(ROOTS),
        };
        Ok(Arc::new(Self { config, proxy: Mutex::new(None) }))
    }

    /// Begins to start it, unless it was.
    pub(crate) fn proxy(&self) -> Result<Arc<Proxy>> {
        // It is only ever replaced as a whole.
        let mut proxy = self.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(proxy) = &*proxy {
            return Ok(Arc::clone(proxy));
        }
        let started = Arc::new(Proxy::start(self.config.clone()).map_err(intercept_error)?);
        *proxy = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Lets one VM pass what the guard does that is made for it.
    pub(crate) fn interception(
        self: &Arc<Self>,
        guard: impl Fn(&Arc<Proxy>) -> Guard + Send + Sync + 'static,
    ) -> Interception {
        Interception::new(Arc::new(Door { gate: Arc::clone(self), guard: Box::new(guard) }))
    }
}

/// Makes a guard.
type Make = dyn Fn(&Arc<Proxy>) -> Guard + Send + Sync;

/// Where a VM is let in.
struct Door {
    gate: Arc<Gate>,
    guard: Box<Make>,
}

impl Interceptor for Door {
    fn admit(
        &self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> std::result::Result<Box<dyn Pass>, Cause> {
        let proxy = self.gate.proxy()?;
        (self.guard)(&proxy).admit(address, deadline)
    }

    fn certificate(&self) -> &str {
        self.gate.config.authority.certificate()
    }
}

pub(crate) fn intercept_error(error: intercept::Error) -> Error {
    Error::Intercept(error)
}
