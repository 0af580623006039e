//! What most tests share: a host with a proxy, an internet, and guests.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_test::{Identity, Reply, Request, Server};
use intercept::{
    CertificateAuthority, InterceptionConfig, NetworkLogEntry, NetworkLogFile, Policy, Proxy,
    ProxyConfig, Verdict,
};
use netns::testing::{Guest, HOST, INTERNET, World};
use netns::{Lease, Pool, ProxyFilter};
use sandbox::{Interceptor, Network, Registration};
use tempfile::TempDir;

pub(crate) const API: &str = "api.example.com";
pub(crate) const OTHER: &str = "other.example.com";
/// A name that resolves to a private address.
pub(crate) const INSIDE: &str = "inside.example.com";

/// A name that resolves to the host itself.
pub(crate) const OWN: &str = "own.example.com";

/// A host with a proxy, and an internet whose certificates the host trusts.
pub(crate) struct Fixture {
    pub(crate) world: World,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) pool: Pool,
    pub(crate) folder: TempDir,
    identity: Identity,
}

/// A guest whose traffic goes through the proxy. Its fields are dropped in this order.
pub(crate) struct Client {
    pub(crate) guest: Guest,
    pub(crate) registration: Option<Box<dyn Registration>>,
    pub(crate) lease: Lease,
    record: PathBuf,
    authority: PathBuf,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::of(2)
    }

    /// With a pool of this size.
    pub(crate) fn of(size: usize) -> Self {
        let permissions = fs::Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().permissions(permissions).tempdir().unwrap();
        let world = World::enter();
        let inside = netns::testing::PRIVATE;
        let hosts = [(API, INTERNET), (OTHER, INTERNET), (INSIDE, inside), (OWN, HOST)];
        world.set_hosts(folder.path(), &hosts);
        let internet = guest_test::Authority::new();
        let roots = folder.path().join("roots.pem");
        internet.install(&roots);
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
        let config = ProxyConfig {
            program: None,
            runtime_dir: folder.path().join("run"),
            authority: CertificateAuthority::open(&folder.path().join("state")).unwrap(),
            roots: Some(roots),
            host_filter: Arc::new(ProxyFilter),
        };
        let authority = folder.path().join("authority.pem");
        fs::write(&authority, config.authority.certificate()).unwrap();
        // The pool's table has the filter for the proxy.
        let pool = Pool::start(netns::Config {
            size,
            lock_path: folder.path().join("network.lock"),
            ..netns::Config::default()
        });
        let pool = pool.unwrap();
        let proxy = Arc::new(Proxy::start(config).unwrap());
        let identity = internet.issue_for(&[API, OTHER, INSIDE, OWN]);
        Self { world, proxy, pool, folder, identity }
    }

    /// An HTTPS server for all names.
    pub(crate) fn https(
        &self,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = self.world.on_the_internet(|| TcpListener::bind((INTERNET, 443)).unwrap());
        Server::serve(listener, Some(&self.identity), handler)
    }

    /// An HTTP server for all names.
    pub(crate) fn http(
        &self,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = self.world.on_the_internet(|| TcpListener::bind((INTERNET, 80)).unwrap());
        Server::serve(listener, None, handler)
    }

    pub(crate) fn client(&self, policy: Policy) -> Client {
        self.client_with(policy, |config| config)
    }

    pub(crate) fn client_with(
        &self,
        policy: Policy,
        with: impl Fn(InterceptionConfig) -> InterceptionConfig,
    ) -> Client {
        let mut lease = self.pool.lease(soon()).unwrap();
        let policy_of_packets = sandbox::Policy::intercepted(&[]);
        lease.apply(&Network { policy: policy_of_packets, ..Network::default() }).unwrap();
        let address = lease.address().unwrap();
        let record = self.folder.path().join(format!("{address}.jsonl"));
        let _ = fs::remove_file(&record);
        let config = InterceptionConfig::new(&self.proxy, policy)
            .with_log(Some(Arc::new(NetworkLogFile::open(&record).unwrap())));
        let registration = with(config).register(address, soon()).unwrap();
        lease.intercept(registration.port(), registration.observer()).unwrap();
        let guest = Guest::behind(&lease);
        let authority = self.folder.path().join("authority.pem");
        Client { guest, registration: Some(registration), lease, record, authority }
    }
}

impl Client {
    /// Curl's output, and the status after it.
    pub(crate) fn curl(&self, arguments: &[impl AsRef<OsStr> + Sync]) -> (String, u16) {
        let output = self.try_curl(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (body.to_owned(), status.parse().unwrap())
    }

    pub(crate) fn try_curl(&self, arguments: &[impl AsRef<OsStr> + Sync]) -> Output {
        self.guest.run(|| {
            let mut command = Command::new("curl");
            command.args(["-sS", "--max-time", "60", "-w", "\n%{http_code}", "--cacert"]);
            command.arg(&self.authority);
            for name in [API, OTHER, INSIDE, OWN] {
                for port in [80, 443, 8443] {
                    command.args(["--resolve", &format!("{name}:{port}:{INTERNET}")]);
                }
            }
            command.args(arguments).output().unwrap()
        })
    }

    /// Sends this on a new connection; returns everything received until its end.
    pub(crate) fn say(&self, to: (Ipv4Addr, u16), words: &[u8]) -> Vec<u8> {
        self.guest.run(|| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(words).unwrap();
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received);
            received
        })
    }

    /// Ends the guest; returns its log.
    pub(crate) fn end(self) -> Vec<NetworkLogEntry> {
        let Self { guest, registration, lease, record, .. } = self;
        drop(guest);
        drop(registration);
        drop(lease);
        read(&record)
    }
}

pub(crate) fn read(record: &Path) -> Vec<NetworkLogEntry> {
    let text = fs::read_to_string(record).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A deadline for what should take no time.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A policy with one firewall only.
pub(crate) fn only_api(firewall: serde_json::Value) -> Policy {
    Policy { firewalls: vec![serde_json::from_value(firewall).unwrap()], ..Policy::none() }
}

pub(crate) fn allow(names: &[&str]) -> Policy {
    let allow = names.iter().map(|name| (*name).to_owned()).collect();
    Policy { unknown: Verdict::Deny, allow, ..Policy::none() }
}

pub(crate) fn hello(_: &Request) -> Reply {
    Reply::bytes(b"hello".to_vec())
}
