//! The pool: networks that are ready before they are asked for.
//!
//! ```text
//!            make                lease                 drop of the lease
//!  missing ───────▶ ready ─────────────────▶ leased ─────────────────────▶ returned
//!     ▲               ▲                                                        │
//!     │               └────────────── clean ───────────────────────────────────┤
//!     └────────────── remove: damaged, or its monitor still runs ◀─────────────┘
//! ```
//!
//! All but the lease itself is done by the thread `netns`: a lease is one receive from a channel.
//!
//! INVARIANT: a network is ready only in the state in which it was made, with the pool's own plan in
//! force. It becomes missing only with nothing left of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, Builder, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select, unbounded,
};
use sandbox::{Limits, Policy};

use crate::error::chain;
use crate::host::Host;
use crate::membership::{LOCK_PATH, Membership};
use crate::range::Range;
use crate::relay::Relay;
use crate::slot::{Plan, Slot};
use crate::{Error, Lease, Result};

const THREAD: &str = "netns";
const MAKER: &str = "netns-make";
/// As many are made at once: the kernel does most of it one by one.
const MAKERS: usize = 2;

/// What a pool is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many networks.
    pub size: usize,
    /// Where their addresses are from.
    pub range: Range,
    /// What is in force in each when it is leased.
    pub policy: Policy,
    /// Likewise.
    pub limits: Limits,
    /// Where the pools of this host agree on who has which network.
    pub lock_path: PathBuf,
    /// Where the host's name servers are named.
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

/// Networks that are ready. Dropping it removes those that are not leased; the others go when their
/// leases do.
#[derive(Debug)]
pub struct Pool {
    size: usize,
    ready: Receiver<Result<Box<Slot>>>,
    requests: Sender<Request>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    relay: Arc<Relay>,
    /// Held by this, by the thread, and by each network.
    membership: Arc<Membership>,
}

/// What the thread is asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Make a network that was given back ready again.
    Clean(Box<Slot>),
    /// Somebody waits: try again to make what could not be made.
    Want,
}

impl Pool {
    /// Removes what dead runners left, sets the host up, and begins to make networks. The calling
    /// thread's namespace is the host's.
    pub fn start(config: Config) -> Result<Self> {
        let membership = Membership::join(&config.lock_path, config.range)?;
        let relay = Arc::new(Relay::start(config.resolv_conf)?);
        let (ready_tx, ready) = unbounded();
        let (requests, requests_rx) = unbounded();
        let (stop, stop_rx) = bounded(0);
        let size = config.size;
        let keeper = Keeper {
            plan: Plan { policy: config.policy, limits: config.limits },
            maker: Maker {
                range: config.range,
                next: AtomicU32::new(0),
                membership: Arc::clone(&membership),
            },
            missing: 0,
            ready: ready_tx,
            requests: requests_rx,
            stop: stop_rx,
        };
        let thread = Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || keeper.run(size))
            .map_err(|source| Error::Thread { name: THREAD, source })?;
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Self { size, ready, requests, stop, thread, relay, membership })
    }

    /// Takes a network that is ready. Waits if there is none, unless there will be none: then it says
    /// why.
    pub fn lease(&self, deadline: Instant) -> Result<Lease> {
        // What another one was told is nothing to us.
        if let Some(slot) = self.ready.try_iter().find_map(Result::ok) {
            return Ok(self.leased(slot));
        }
        let (asked, mut failed) = (Instant::now(), None);
        let _ = self.requests.send(Request::Want);
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

    /// How many networks are ready, or could not be made and nobody has asked why.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    fn leased(&self, slot: Box<Slot>) -> Lease {
        Lease::new(slot, &self.requests, &self.relay)
    }

    /// Whether there is any network, ready or not: each keeps the host set up.
    fn has_networks(&self) -> bool {
        const OTHERS: usize = 2;
        Arc::strong_count(&self.membership) > OTHERS
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("{}", Error::Panicked { name: THREAD });
        }
        let ready: Vec<_> = self.ready.try_iter().flatten().collect();
        Slot::remove(ready);
    }
}

/// The thread's own.
struct Keeper {
    plan: Plan,
    maker: Maker,
    /// How many could not be made.
    missing: usize,
    ready: Sender<Result<Box<Slot>>>,
    requests: Receiver<Request>,
    stop: Receiver<()>,
}

impl Keeper {
    fn run(mut self, size: usize) {
        self.fill(size);
        if let Err(error) = self.maker.membership.forget_dead(self.maker.range) {
            log::warn!("connections of dead runners stay; error={}", chain(&error));
        }
        loop {
            select! {
                recv(self.stop) -> _ => break,
                recv(self.requests) -> request => match request {
                    Ok(Request::Clean(slot)) => self.clean(slot),
                    Ok(Request::Want) => self.make_up(),
                    Err(_) => break,
                },
            }
        }
        let given_back = self.requests.try_iter().filter_map(|request| match request {
            Request::Clean(slot) => Some(slot),
            Request::Want => None,
        });
        Slot::remove(given_back.collect());
    }

    /// Makes all networks, and passes each on as soon as it is ready.
    fn fill(&mut self, size: usize) {
        let (begun, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let make = || {
            while begun.fetch_add(1, Ordering::Relaxed) < size && !self.is_stopped() {
                match self.make() {
                    Ok(slot) => self.pass_on(Ok(slot)),
                    Err(error) => {
                        log::warn!("a network is missing; reason={}", chain(&error));
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..MAKERS.min(size) {
                let helper = Builder::new().name(MAKER.to_owned()).spawn_scoped(scope, make);
                if let Err(error) = helper {
                    log::debug!("networks are made by one thread alone; error={error}");
                }
            }
            make();
        });
        self.missing = failed.into_inner();
    }

    /// Makes one of those that are missing; what is in the way is told to who waits.
    fn make_up(&mut self) {
        if self.missing > 0 {
            let made = self.make();
            self.missing -= usize::from(made.is_ok());
            self.pass_on(made);
        }
    }

    fn make(&self) -> Result<Box<Slot>> {
        let begun = Instant::now();
        let slot = self.maker.make(&mut Host::open()?, &self.plan)?;
        let (link, us) = (slot.addresses.link(), begun.elapsed().as_micros());
        log::debug!("network made; link={link} us={us}");
        Ok(slot)
    }

    fn clean(&mut self, mut slot: Box<Slot>) {
        let (begun, link) = (Instant::now(), slot.addresses.link());
        let cleaned = Host::open().and_then(|mut host| slot.clean(&mut host, &self.plan));
        match cleaned {
            Ok(()) => {
                log::debug!("network cleaned; link={link} us={}", begun.elapsed().as_micros());
                self.pass_on(Ok(slot));
            }
            Err(error) => {
                log::warn!("network replaced; link={link} reason={}", chain(&error));
                drop(slot);
                self.missing += 1;
                self.make_up();
            }
        }
    }

    fn pass_on(&self, made: Result<Box<Slot>>) {
        // Where nobody is any more, a network takes itself down.
        drop(self.ready.send(made));
    }

    fn is_stopped(&self) -> bool {
        self.stop.try_recv() == Err(TryRecvError::Disconnected)
    }
}

/// Makes networks with addresses that nobody has.
struct Maker {
    range: Range,
    /// Where to look for addresses next: those given back last are taken last.
    next: AtomicU32,
    membership: Arc<Membership>,
}

impl Maker {
    fn make(&self, host: &mut Host, plan: &Plan) -> Result<Box<Slot>> {
        for _ in 0..self.range.size() {
            let addresses = self.range.slot(self.next.fetch_add(1, Ordering::Relaxed));
            let Some(lock) = self.membership.locks().take(addresses)? else { continue };
            let keys = (lock, Arc::clone(&self.membership));
            match Slot::make(host, addresses, plan, keys) {
                Err(error @ Error::NameTaken { .. }) => log::warn!("{}", chain(&error)),
                other => return other,
            }
        }
        Err(Error::RangeExhausted { range: self.range.net(), size: self.range.size() })
    }
}
