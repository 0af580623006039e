//! The pool: networks made in advance.
//!
//! ```text
//!            make                lease                 drop of the lease
//!  missing ───────▶ ready ─────────────────▶ leased ─────────────────────▶ returned
//!     ▲               ▲                                                        │
//!     │               └────────────── reset ───────────────────────────────────┤
//!     └────────────── remove: damaged, or its monitor still runs ◀─────────────┘
//! ```
//!
//! The thread `netns` does everything except the lease itself, which is one receive from a channel.
//!
//! INVARIANT: a ready network is in the state in which it was made, with the pool's own traffic
//! configuration in force. A missing one has left nothing on the host.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use base::error::chain;
use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select, unbounded,
};
use sandbox::{Limits, Policy};

use crate::forwarder::Forwarder;
use crate::host::Host;
use crate::membership::{LOCK_PATH, Membership};
use crate::range::Range;
use crate::slot::{Slot, TrafficConfig};
use crate::{Error, Lease, Result};

const THREAD: &str = "netns";
const FACTORY_THREAD: &str = "netns-make";
/// Threads that make networks in parallel. More would not help: the kernel serializes most of it.
const FACTORY_THREADS: usize = 2;

/// The configuration of a pool.
#[derive(Debug, Clone)]
pub struct Config {
    /// The number of networks.
    pub size: usize,
    /// The range of their addresses.
    pub range: Range,
    /// The policy of a network when it is leased.
    pub policy: Policy,
    /// The limits of a network when it is leased.
    pub limits: Limits,
    /// The lock file, by which the pools of this host divide the networks.
    pub lock_path: PathBuf,
    /// The file that names the host's DNS servers.
    pub resolv_conf: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            size: 1,
            range: Range::default(),
            policy: Policy::default(),
            limits: Limits::default(),
            lock_path: PathBuf::from(LOCK_PATH),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// A pool of ready networks. Dropping it removes those that are not leased. A leased network is removed
/// when its lease is dropped.
#[derive(Debug)]
pub struct Pool {
    size: usize,
    ready: Receiver<Result<Box<Slot>>>,
    requests: Sender<PoolRequest>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    forwarder: Arc<Forwarder>,
    /// Also held by the thread and by each network.
    membership: Arc<Membership>,
}

/// A request to the thread.
#[derive(Debug)]
pub(crate) enum PoolRequest {
    /// Reset a returned network and make it ready again.
    Reset(Box<Slot>),
    /// A lease is waiting: retry a network that could not be made.
    RetryMissing,
}

impl Pool {
    /// Removes the garbage of dead runners, sets the host up, and begins to make networks. The host's
    /// namespace is that of the calling thread.
    pub fn start(config: Config) -> Result<Self> {
        let membership = Membership::join(&config.lock_path, config.range)?;
        let forwarder = Arc::new(Forwarder::start(config.resolv_conf)?);
        let (ready_tx, ready) = unbounded();
        let (requests, requests_rx) = unbounded();
        let (stop, stop_rx) = bounded(0);
        let size = config.size;
        let replenisher = Replenisher {
            traffic: TrafficConfig {
                policy: config.policy,
                limits: config.limits,
                ..TrafficConfig::default()
            },
            factory: SlotFactory {
                range: config.range,
                next: AtomicU32::new(0),
                membership: Arc::clone(&membership),
            },
            missing: 0,
            ready: ready_tx,
            requests: requests_rx,
            stop: stop_rx,
        };
        let thread = base::thread::spawn(THREAD, move || replenisher.run(size))
            .map_err(|source| Error::Thread { name: THREAD, source })?;
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Self { size, ready, requests, stop, thread, forwarder, membership })
    }

    /// Takes a ready network. Waits for one until `deadline`; fails at once if the pool has no network
    /// and cannot make one.
    pub fn lease(&self, deadline: Instant) -> Result<Lease> {
        // Errors in the channel are answers to earlier leases.
        if let Some(slot) = self.ready.try_iter().find_map(Result::ok) {
            return Ok(self.leased(slot));
        }
        let (asked, mut failed) = (Instant::now(), None);
        let _ = self.requests.send(PoolRequest::RetryMissing);
        loop {
            match self.ready.recv_deadline(deadline) {
                Ok(Ok(slot)) => return Ok(self.leased(slot)),
                Ok(Err(error)) if !self.has_networks() => return Err(error),
                Ok(Err(error)) => failed = Some(error),
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Stopped),
                Err(RecvTimeoutError::Timeout) => {
                    let (size, waited) = (self.size, asked.elapsed());
                    return Err(failed.unwrap_or(Error::NoneReady { size, waited }));
                }
            }
        }
    }

    /// The number of networks that are ready, and of failures that no lease has received yet.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    fn leased(&self, slot: Box<Slot>) -> Lease {
        Lease::new(slot, &self.requests, &self.forwarder)
    }

    /// Whether the pool has any network: each one holds a reference to the membership.
    fn has_networks(&self) -> bool {
        const OTHERS: usize = 2;
        Arc::strong_count(&self.membership) > OTHERS
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            base::thread::join(thread);
        }
        let ready: Vec<_> = self.ready.try_iter().flatten().collect();
        Slot::remove(ready);
    }
}

/// The state of the thread.
struct Replenisher {
    traffic: TrafficConfig,
    factory: SlotFactory,
    /// Networks that could not be made.
    missing: usize,
    ready: Sender<Result<Box<Slot>>>,
    requests: Receiver<PoolRequest>,
    stop: Receiver<()>,
}

impl Replenisher {
    fn run(mut self, size: usize) {
        self.fill(size);
        if let Err(error) = self.factory.membership.forget_dead_connections(self.factory.range) {
            log::warn!("cannot delete connections of dead runners; error={}", chain(&error));
        }
        loop {
            select! {
                recv(self.stop) -> _ => break,
                recv(self.requests) -> request => match request {
                    Ok(PoolRequest::Reset(slot)) => self.reset(slot),
                    Ok(PoolRequest::RetryMissing) => self.make_missing(),
                    Err(_) => break,
                },
            }
        }
        let returned = self.requests.try_iter().filter_map(|request| match request {
            PoolRequest::Reset(slot) => Some(slot),
            PoolRequest::RetryMissing => None,
        });
        Slot::remove(returned.collect());
    }

    /// Makes all networks, and delivers each as soon as it is ready.
    fn fill(&mut self, size: usize) {
        let (begun, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let make = || {
            while begun.fetch_add(1, Ordering::Relaxed) < size && !self.is_stopped() {
                match self.make() {
                    Ok(slot) => self.deliver(Ok(slot)),
                    Err(error) => {
                        log::warn!("cannot make a network; error={}", chain(&error));
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..FACTORY_THREADS.min(size) {
                let helper = base::thread::spawn_scoped(scope, FACTORY_THREAD, make);
                if let Err(error) = helper {
                    log::debug!("cannot start a thread to make networks; error={error}");
                }
            }
            make();
        });
        self.missing = failed.into_inner();
    }

    /// Makes one missing network, and delivers it or the error to the waiting lease.
    fn make_missing(&mut self) {
        if self.missing > 0 {
            let made = self.make();
            self.missing -= usize::from(made.is_ok());
            self.deliver(made);
        }
    }

    fn make(&self) -> Result<Box<Slot>> {
        let begun = Instant::now();
        let slot = self.factory.make(&mut Host::open()?, &self.traffic)?;
        let (link, us) = (slot.addresses.link(), begun.elapsed().as_micros());
        log::debug!("network made; link={link} us={us}");
        Ok(slot)
    }

    fn reset(&mut self, mut slot: Box<Slot>) {
        let (begun, link) = (Instant::now(), slot.addresses.link());
        let reset = Host::open().and_then(|mut host| slot.reset(&mut host, &self.traffic));
        match reset {
            Ok(()) => {
                log::debug!("network reset; link={link} us={}", begun.elapsed().as_micros());
                self.deliver(Ok(slot));
            }
            Err(error) => {
                log::warn!("network replaced; link={link} error={}", chain(&error));
                drop(slot);
                self.missing += 1;
                self.make_missing();
            }
        }
    }

    fn deliver(&self, made: Result<Box<Slot>>) {
        // If the pool is gone, the network is dropped, which removes it.
        drop(self.ready.send(made));
    }

    fn is_stopped(&self) -> bool {
        self.stop.try_recv() == Err(TryRecvError::Disconnected)
    }
}

/// Makes networks with free addresses.
struct SlotFactory {
    range: Range,
    /// The next addresses to try. Addresses that were freed last are reused last.
    next: AtomicU32,
    membership: Arc<Membership>,
}

impl SlotFactory {
    fn make(&self, host: &mut Host, traffic: &TrafficConfig) -> Result<Box<Slot>> {
        for _ in 0..self.range.size() {
            let addresses = self.range.slot(self.next.fetch_add(1, Ordering::Relaxed));
            let Some(lock) = self.membership.locks().try_lock(addresses)? else { continue };
            let keys = (lock, Arc::clone(&self.membership));
            match Slot::make(host, addresses, traffic, keys) {
                Err(error @ Error::NameTaken { .. }) => log::warn!("{}", chain(&error)),
                other => return other,
            }
        }
        Err(Error::RangeExhausted { range: self.range.net(), size: self.range.size() })
    }
}
