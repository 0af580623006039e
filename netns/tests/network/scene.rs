//! What most tests begin with, and what guests do in them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use netns::testing::World;
use netns::{Config, Lease, Pool};
use sandbox::{Action, Dropped, EgressObserver, Network, Policy, Protocol, Rule};
use tempfile::TempDir;

/// A host, and where its runners agree on networks.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) folder: TempDir,
}

impl Scene {
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

    /// Something on the internet that takes connections.
    pub(crate) fn server(&self, address: Ipv4Addr, port: u16) -> TcpListener {
        self.world.on_the_internet(|| TcpListener::bind((address, port)).unwrap())
    }
}

/// When to give up what should take no time.
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
    Policy { rules, default: Action::Deny, dns: false }
}

pub(crate) fn tcp(rule: Rule, port: u16) -> Rule {
    Rule { protocol: Some(Protocol::Tcp), ports: Some(port..=port), ..rule }
}

/// Connects from this thread's namespace.
pub(crate) fn connect(to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to.into(), port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a connection was refused by the rules, rather than lost or refused by its peer.
pub(crate) fn is_forbidden<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EHOSTUNREACH))
}

/// Says something on one end and hears it on the other.
pub(crate) fn passes(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    let mut heard = [0; 5];
    from.write_all(b"hello").is_ok() && to.read_exact(&mut heard).is_ok() && &heard == b"hello"
}

/// Remembers what it was told.
pub(crate) struct Witness {
    may_ask: bool,
    told: Sender<String>,
    heard: Receiver<String>,
}

impl Witness {
    pub(crate) fn new(may_ask: bool) -> Arc<Self> {
        let (told, heard) = unbounded();
        Arc::new(Self { may_ask, told, heard })
    }

    /// What it is told next.
    pub(crate) fn next(&self) -> String {
        self.heard.recv_deadline(soon()).unwrap()
    }

    /// Waits until it is told this. A SYN that is refused while its sender is still busy with it goes
    /// out once more, and is told once more.
    pub(crate) fn wait_for(&self, wanted: &str) {
        while self.next() != wanted {}
    }

    pub(crate) fn has_heard_nothing(&self) -> bool {
        self.heard.is_empty()
    }
}

impl EgressObserver for Witness {
    fn may_ask(&self, name: &str) -> bool {
        self.told.send(name.to_owned()).unwrap();
        self.may_ask
    }

    fn dropped(&self, packet: Dropped) {
        let Dropped { protocol, address, port } = packet;
        self.told.send(format!("{protocol} {}", SocketAddr::new(address, port))).unwrap();
    }
}
