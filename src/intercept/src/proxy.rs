//! The proxy for all VMs of a process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use sandbox::HostFilter;

use crate::handle::{Handle, ProxyRequest, RegisteredVm};
use crate::observer::NamePolicy;
use crate::supervisor::Supervisor;
use crate::{CertificateAuthority, Error, Result, launch};

/// How long the proxy may take to close the connections of a VM.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration of a proxy.
#[derive(Clone)]
pub struct ProxyConfig {
    /// The path of mitmdump; `None` searches for it in `PATH`.
    pub program: Option<PathBuf>,
    /// The folder in which the proxy's folder is made.
    pub runtime_dir: PathBuf,
    /// The certificate authority that guests trust.
    pub authority: CertificateAuthority,
    /// The root certificates that the proxy trusts; `None` for the host's store.
    pub roots: Option<PathBuf>,
    /// The kernel's filter that keeps the proxy from the host's own addresses, in addition to the addon.
    pub host_filter: Arc<dyn HostFilter>,
}

/// The owner of the proxy. Dropping it ends the proxy, and with it all connections of VMs.
pub struct Proxy {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    port: u16,
    authority: CertificateAuthority,
}

impl Proxy {
    /// Starts the proxy in the calling thread's network namespace, and keeps it running. Does not wait
    /// until it runs: a failure to start is the result of the first registration.
    pub fn start(config: ProxyConfig) -> Result<Self> {
        // A missing program is reported at once.
        if config.program.is_none() {
            launch::find()?;
        }
        let failed = |source| Error::Socket { operation: "make a socket", source };
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listener = TcpListener::bind(any).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (handle, requests) = Handle::new()?;
        let authority = config.authority.clone();
        let supervisor = Supervisor::new(config, listener, (handle.clone(), requests))?;
        let thread = base::thread::spawn("proxy", move || supervisor.run())
            .map_err(|source| Error::Thread { name: "proxy".to_owned(), source })?;
        Ok(Self { handle, thread: Some(thread), port, authority })
    }

    /// The port to which TCP has to be redirected.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate that guests have to trust, as PEM.
    pub fn certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// Registers a VM; waits until the proxy accepts its connections.
    pub(crate) fn register(
        &self,
        vm: Ipv4Addr,
        guest: RegisteredVm,
        deadline: Instant,
    ) -> Result<NamePolicy> {
        let begun = Instant::now();
        let (reply_tx, reply) = bounded(1);
        self.handle.send(ProxyRequest::Register { vm, guest: Box::new(guest), reply: reply_tx });
        match reply.recv_deadline(deadline) {
            Ok(names) => names,
            Err(RecvTimeoutError::Disconnected) => Err(Error::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                self.unregister(vm);
                Err(Error::RegistrationTimeout { address: vm, waited: begun.elapsed() })
            }
        }
    }

    /// Closes all connections of a VM; waits until that is done.
    pub(crate) fn unregister(&self, vm: Ipv4Addr) {
        let (done_tx, done) = bounded(0);
        self.handle.send(ProxyRequest::Unregister { vm, done: done_tx });
        if done.recv_timeout(UNREGISTER_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            log::error!("the proxy did not close a VM's connections in time; vm={vm}");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.handle.send(ProxyRequest::Stop);
        if let Some(thread) = self.thread.take() {
            base::thread::join(thread);
        }
    }
}
