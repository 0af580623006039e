//! What most tests share: a host with a pool, policies, and connections of guests.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use netns::testing::World;
use netns::{Config, Lease, Pool};
use sandbox::{Action, Dropped, EgressObserver, Network, Policy, Protocol, Rule};
use tempfile::TempDir;

/// A host, and the folder with its lock file.
pub(crate) struct Fixture {
    pub(crate) world: World,
    pub(crate) folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self { world: World::enter(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn config(&self, size: usize) -> Config {
        Config {
            size,
            lock_path: self.folder.path().join("network.lock"),
            resolv_conf: self.folder.path().join("resolv.conf"),
            ..Config::default()
        }
    }

    pub(crate) fn pool(&self, size: usize) -> Pool {
        Pool::start(self.config(size)).unwrap()
    }

    /// A listener on the internet.
    pub(crate) fn server(&self, address: Ipv4Addr, port: u16) -> TcpListener {
        self.world.on_the_internet(|| TcpListener::bind((address, port)).unwrap())
    }
}

/// A deadline for what should take no time.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) fn lease(pool: &Pool) -> Lease {
    pool.lease(soon()).unwrap()
}

/// A lease with a policy in force.
pub(crate) fn lease_with(pool: &Pool, policy: Policy) -> Lease {
    let mut lease = lease(pool);
    lease.apply(&network(policy)).unwrap();
    lease
}

pub(crate) fn network(policy: Policy) -> Network {
    Network { policy, ..Network::default() }
}

pub(crate) fn allow(to: &str) -> Rule {
    Rule { action: Action::Allow, to: to.parse().unwrap(), protocol: None, ports: None }
}

pub(crate) fn deny(to: &str) -> Rule {
    Rule { action: Action::Deny, ..allow(to) }
}

pub(crate) fn only(rules: Vec<Rule>) -> Policy {
    Policy { rules, ..Policy::none() }
}

pub(crate) fn tcp(rule: Rule, port: u16) -> Rule {
    Rule { protocol: Some(Protocol::Tcp), ports: Some(port..=port), ..rule }
}

/// Connects from this thread's namespace.
pub(crate) fn connect(to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to.into(), port), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A time-out that only a failure exceeds.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Whether a connection was refused by the rules, rather than lost or refused by its peer.
pub(crate) fn is_forbidden<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EHOSTUNREACH))
}

/// Sends on one end and receives on the other.
pub(crate) fn passes(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    let mut received = [0; 5];
    from.write_all(b"hello").is_ok()
        && to.read_exact(&mut received).is_ok()
        && &received == b"hello"
}

/// Records its events: names of DNS queries, and dropped packets.
pub(crate) struct RecordingObserver {
    may_resolve: bool,
    events_tx: Sender<String>,
    events: Receiver<String>,
}

impl RecordingObserver {
    pub(crate) fn new(may_resolve: bool) -> Arc<Self> {
        let (events_tx, events) = unbounded();
        Arc::new(Self { may_resolve, events_tx, events })
    }

    /// The next event.
    pub(crate) fn next(&self) -> String {
        self.events.recv_deadline(soon()).unwrap()
    }

    /// Waits for this event. A SYN that is rejected while its sender is busy with it is sent and reported once
    /// more.
    pub(crate) fn wait_for(&self, wanted: &str) {
        while self.next() != wanted {}
    }

    pub(crate) fn has_no_event(&self) -> bool {
        self.events.is_empty()
    }
}

impl EgressObserver for RecordingObserver {
    fn may_resolve(&self, name: &str) -> bool {
        self.events_tx.send(name.to_owned()).unwrap();
        self.may_resolve
    }

    fn dropped(&self, packet: Dropped) {
        let Dropped { protocol, address, port } = packet;
        self.events_tx.send(format!("{protocol} {}", SocketAddr::new(address, port))).unwrap();
    }
}
