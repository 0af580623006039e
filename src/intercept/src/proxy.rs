//! The proxy, as its users see it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sandbox::HostFilter;

use crate::credential::{Credentials, Grant, Refusal};
use crate::masked::MaskedRecord;
use crate::message::Registration;
use crate::supervisor::{Supervisor, THREAD};
use crate::watch::Names;
use crate::{Authority, Error, Result, launch};

/// How long the proxy may take to close the connections of a VM.
const UNREGISTER: Duration = Duration::from_secs(10);

/// What a proxy is started from.
#[derive(Clone)]
pub struct Config {
    /// mitmdump; where PATH has it if none.
    pub program: Option<PathBuf>,
    /// Where its folder is made.
    pub runtime_dir: PathBuf,
    /// Whom guests trust.
    pub authority: Authority,
    /// Whom the proxy trusts: the host's store of certificates if none.
    pub roots: Option<PathBuf>,
    /// What keeps the proxy from the host's own addresses, besides the addon.
    pub host_filter: Arc<dyn HostFilter>,
}

/// The owner of the proxy. Dropping it ends the proxy, and with it whatever VMs still send.
pub struct Proxy {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    port: u16,
    authority: Authority,
}

/// For those who have something to say to the thread.
#[derive(Clone)]
pub(crate) struct Handle {
    requests: Sender<Request>,
    pub(crate) waker: Arc<EventFd>,
}

/// What the thread is asked for.
pub(crate) enum Request {
    Register {
        vm: Ipv4Addr,
        guest: Box<Admitted>,
        reply: Sender<Result<Names>>,
    },
    Unregister {
        vm: Ipv4Addr,
        /// Dropped when it is done.
        done: Sender<()>,
    },
    Credential {
        id: u64,
        answer: std::result::Result<Grant, Refusal>,
    },
    Stop,
}

/// A VM that is let in.
pub(crate) struct Admitted {
    pub(crate) pass: Registration,
    pub(crate) record: Option<Arc<MaskedRecord>>,
    pub(crate) credentials: Option<Arc<dyn Credentials>>,
}

impl Proxy {
    /// Begins to start it, in the calling thread's network namespace, and keeps it running. Whether it
    /// runs, those learn who want a VM admitted.
    pub fn start(config: Config) -> Result<Self> {
        // What is missing is told at once, and not only to who wants a VM admitted.
        if config.program.is_none() {
            launch::find()?;
        }
        let failed = |operation| move |source| Error::Socket { operation, source };
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listener = TcpListener::bind(any).map_err(failed("make a socket"))?;
        let port = listener.local_addr().map_err(failed("make a socket"))?.port();
        let (requests, requests_rx): (_, Receiver<Request>) = unbounded();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let waker = EventFd::from_flags(flags);
        let waker = Arc::new(waker.map_err(|errno| failed("make an event")(errno.into()))?);
        let handle = Handle { requests, waker };
        let authority = config.authority.clone();
        let supervisor = Supervisor::new(config, listener, (handle.clone(), requests_rx))?;
        let thread = Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || supervisor.run())
            .map_err(|source| Error::Thread { name: THREAD.to_owned(), source })?;
        Ok(Self { handle, thread: Some(thread), port, authority })
    }

    /// The port that TCP is to be redirected to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate that guests have to trust, as PEM.
    pub fn certificate(&self) -> &str {
        self.authority.certificate()
    }
}

impl Proxy {
    /// Lets a VM in; waits until the proxy knows it.
    pub(crate) fn register(
        &self,
        vm: Ipv4Addr,
        guest: Admitted,
        deadline: Instant,
    ) -> Result<Names> {
        let begun = Instant::now();
        let (reply_tx, reply) = bounded(1);
        self.handle.ask(Request::Register { vm, guest: Box::new(guest), reply: reply_tx });
        match reply.recv_deadline(deadline) {
            Ok(names) => names,
            Err(RecvTimeoutError::Disconnected) => Err(Error::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                self.unregister(vm);
                Err(Error::Late { address: vm, waited: begun.elapsed() })
            }
        }
    }

    /// Ends all that a VM has open; waits until that is done.
    pub(crate) fn unregister(&self, vm: Ipv4Addr) {
        let (done_tx, done) = bounded(0);
        self.handle.ask(Request::Unregister { vm, done: done_tx });
        if done.recv_timeout(UNREGISTER) == Err(RecvTimeoutError::Timeout) {
            log::error!("the proxy does not close a vm's connections; vm={vm}");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.handle.ask(Request::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread `{THREAD}` panicked: this is a bug");
        }
    }
}

impl Handle {
    /// Answers a question of the proxy's.
    pub(crate) fn credential(&self, id: u64, answer: std::result::Result<Grant, Refusal>) {
        self.ask(Request::Credential { id, answer });
    }

    fn ask(&self, request: Request) {
        // A thread that is gone drops it, and whoever waits hears of that.
        let _ = self.requests.send(request);
        if let Err(errno) = self.waker.write(1) {
            log::error!("cannot wake the proxy's thread; error={errno}");
        }
    }
}
