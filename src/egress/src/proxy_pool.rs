//! A pool of proxies. mitmproxy is single-threaded, so VMs are distributed over several, round-robin.
//! Each proxy is started for the first VM that is assigned to it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base::sync::{Condvar, Mutex};
use intercept::{CertificateAuthority, InterceptionConfig, Proxy, ProxyConfig};
use sandbox::{Cause, Interception, Interceptor, Registration};

use crate::error::Result;

/// The largest number of proxies.
const MAX_PROXIES: usize = 8;
/// Environment variable: the path of mitmdump if it is not in PATH.
const PROGRAM: &str = "RUNNER_MITMDUMP";
/// Environment variable: certificate authorities to trust instead of the host's store.
const ROOTS: &str = "SSL_CERT_FILE";

/// Proxies, and the configuration to start more of them.
pub struct ProxyPool {
    config: ProxyConfig,
    state: Mutex<PoolState>,
    /// Notified when a start ends.
    start_ended: Condvar,
}

struct PoolState {
    /// One per processor, since each proxy uses memory of its own.
    slots: Vec<Slot>,
    /// How many VMs were assigned a proxy.
    vms: usize,
}

#[derive(Clone)]
enum Slot {
    Empty,
    Starting,
    Started(Arc<Proxy>),
}

impl ProxyPool {
    /// Opens the certificate authority in the state folder, or creates it.
    pub fn open(state_dir: &Path, runtime_dir: &Path) -> Result<Arc<Self>> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let authority = CertificateAuthority::open(state_dir)?;
        let config = ProxyConfig {
            program: program(),
            runtime_dir: runtime_dir.to_owned(),
            authority,
            roots: path(ROOTS),
            host_filter: Arc::new(netns::ProxyFilter),
        };
        let size =
            std::thread::available_parallelism().map_or(1, |count| count.get().min(MAX_PROXIES));
        let state = Mutex::new(PoolState { slots: vec![Slot::Empty; size], vms: 0 });
        Ok(Arc::new(Self { config, state, start_ended: Condvar::new() }))
    }

    /// Starts the first proxy, unless it was started before.
    pub fn warm_up(&self) -> Result<()> {
        self.take(0).map(drop)
    }

    /// The proxy of the next VM.
    fn next(&self) -> Result<Arc<Proxy>> {
        self.take(1)
    }

    /// The proxy whose turn it is. It is started without the lock: other VMs only wait if theirs is the
    /// same one.
    fn take(&self, vms: usize) -> Result<Arc<Proxy>> {
        let mut state = self.state.lock();
        let turn = state.vms % state.slots.len();
        state.vms += vms;
        loop {
            match &state.slots[turn] {
                Slot::Started(proxy) => return Ok(Arc::clone(proxy)),
                Slot::Starting => state = self.start_ended.wait(state),
                Slot::Empty => break,
            }
        }
        state.slots[turn] = Slot::Starting;
        drop(state);
        let mut start = Start { pool: self, turn, proxy: None };
        let proxy = Arc::new(Proxy::start(self.config.clone())?);
        start.proxy = Some(Arc::clone(&proxy));
        Ok(proxy)
    }

    /// The interception of one VM, as `make_config` configures it for its proxy.
    pub fn interception(
        self: &Arc<Self>,
        make_config: impl Fn(&Arc<Proxy>) -> InterceptionConfig + Send + Sync + 'static,
    ) -> Interception {
        Interception::new(Arc::new(Registrar {
            pool: Arc::clone(self),
            make_config: Box::new(make_config),
        }))
    }
}

/// A start of the proxy in a slot. Dropping it ends the start, and wakes those who wait for it.
struct Start<'a> {
    pool: &'a ProxyPool,
    turn: usize,
    /// None if the start failed.
    proxy: Option<Arc<Proxy>>,
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        let slot = self.proxy.take().map_or(Slot::Empty, Slot::Started);
        self.pool.state.lock().slots[self.turn] = slot;
        self.pool.start_ended.notify_all();
    }
}

/// Makes the interception of a VM by a proxy.
type MakeConfig = dyn Fn(&Arc<Proxy>) -> InterceptionConfig + Send + Sync;

/// Registers VMs with the proxies of a pool.
struct Registrar {
    pool: Arc<ProxyPool>,
    make_config: Box<MakeConfig>,
}

impl Interceptor for Registrar {
    fn register(
        &self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> std::result::Result<Box<dyn Registration>, Cause> {
        let proxy = self.pool.next()?;
        (self.make_config)(&proxy).register(address, deadline)
    }

    fn certificate(&self) -> &str {
        self.pool.config.authority.certificate()
    }
}

/// The path of mitmdump, if the environment sets it.
pub(crate) fn program() -> Option<PathBuf> {
    std::env::var_os(PROGRAM).map(PathBuf::from)
}
