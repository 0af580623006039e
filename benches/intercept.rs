//! What the proxy costs: a request's time and throughput, against no proxy and against mitmproxy without
//! our addon; and how long it takes to let a VM in.
//!
//! `cargo bench -p intercept --bench intercept -- [--json]`, as root, with mitmproxy installed. Guests, the
//! host and the internet are namespaces of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_test::{Reply, Server};
use intercept::{
    Api, CertificateAuthority, Firewall, Grants, InterceptionConfig, Permission, Policy, Proxy,
    ProxyConfig, Verdict,
};
use netns::testing::{Guest, INTERNET, World};
use netns::{Lease, Pool};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sandbox::{Dropped, EgressObserver, Interceptor, Network, Registration};

const NAME: &str = "api.example.com";
/// Where mitmproxy without our addon listens.
const PLAIN: u16 = 18_080;
/// Requests of a round, over one connection.
const REQUESTS: usize = 400;
const ROUNDS: usize = 5;
/// The length of a large answer.
const LARGE: usize = 64 << 20;
/// VMs that are there while another one is let in.
const MANY: u32 = 1000;

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn main() {
    let is_json = std::env::args().any(|argument| argument == "--json");
    let folder =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o711)).tempdir().unwrap();
    let (world, folder) = (World::enter(), folder.path());
    world.set_hosts(folder, &[(NAME, INTERNET)]);
    let internet = guest_test::Authority::new();
    let roots = folder.join("roots.pem");
    internet.install(&roots);
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
    let listener = world.on_the_internet(|| TcpListener::bind((INTERNET, 443)).unwrap());
    let large = vec![b'x'; LARGE];
    let _server = Server::serve(listener, Some(&internet.issue_for(&[NAME])), move |request| {
        match request.path.as_str() {
            "/large" => Reply::bytes(large.clone()),
            _ => Reply::bytes(*b"hello"),
        }
    });
    let config = ProxyConfig {
        program: None,
        runtime_dir: folder.join("run"),
        authority: CertificateAuthority::open(&folder.join("state")).unwrap(),
        roots: Some(roots.clone()),
        host_filter: Arc::new(netns::ProxyFilter),
    };
    let ours = folder.join("authority.pem");
    fs::write(&ours, config.authority.certificate()).unwrap();
    let plain = Plain::start(folder, &roots);
    let pool = Pool::start(netns::Config {
        size: 4,
        lock_path: folder.join("network.lock"),
        ..netns::Config::default()
    });
    let pool = pool.unwrap();
    let proxy = Arc::new(Proxy::start(config).unwrap());

    let mut figures = BTreeMap::new();
    admit(&proxy, &mut figures);
    let direct = Client::direct(&pool, &roots);
    let seen = Client::behind(&pool, &proxy, api(), &ours);
    let unseen = Client::behind(&pool, &proxy, Policy::open(), &roots);
    let without = Client::behind_port(&pool, PLAIN, &ours);
    let clients = [
        ("direct", &direct),
        ("mitmproxy alone", &without),
        ("proxy, looked into", &seen),
        ("proxy, passed on", &unseen),
    ];
    measure(&clients, &mut figures);
    drop(plain);
    if is_json {
        println!("{}", serde_json::to_string(&figures).unwrap());
    } else {
        for (name, value) in &figures {
            println!("{name:44} {value:10.3}");
        }
    }
}

/// All in turns, so that what else the host does meets each alike.
fn measure(clients: &[(&str, &Client)], figures: &mut BTreeMap<String, f64>) {
    let mut times: Vec<(Vec<f64>, Vec<f64>, Vec<f64>)> = vec![Default::default(); clients.len()];
    for _ in 0..ROUNDS {
        for ((_, client), (request, connect, rate)) in clients.iter().zip(&mut times) {
            let begun = Instant::now();
            let mut stream = client.connect();
            get(&mut stream, "/");
            connect.push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            (0..REQUESTS).for_each(|_| assert_eq!(get(&mut stream, "/"), 5));
            request.push(begun.elapsed().as_secs_f64() * 1e6 / REQUESTS as f64);
            let begun = Instant::now();
            assert_eq!(get(&mut stream, "/large"), LARGE);
            rate.push(LARGE as f64 / begun.elapsed().as_secs_f64() / 1e6);
        }
    }
    for ((name, _), (request, connect, rate)) in clients.iter().zip(&mut times) {
        figures.insert(format!("{name}: request us"), median(request));
        figures.insert(format!("{name}: first request ms"), median(connect));
        figures.insert(format!("{name}: MB/s"), median(rate));
    }
    let of = |what: &str| figures[what];
    let ratio = of("proxy, looked into: request us") / of("mitmproxy alone: request us");
    let rates = of("mitmproxy alone: MB/s") / of("proxy, looked into: MB/s");
    figures.insert("addon, time of a request, ratio".into(), ratio);
    figures.insert("addon, throughput, ratio".into(), rates);
}

/// Lets a VM in and out again, with no other and with many.
fn admit(proxy: &Arc<Proxy>, figures: &mut BTreeMap<String, f64>) {
    let time = || {
        let mut times: Vec<f64> = (0..200)
            .map(|_| {
                let guard = InterceptionConfig::new(proxy, api());
                let begun = Instant::now();
                let pass = guard.register([10, 9, 9, 9].into(), soon()).unwrap();
                let time = begun.elapsed();
                drop(pass);
                time.as_secs_f64() * 1e6
            })
            .collect();
        median(&mut times)
    };
    // The first waits for Python to start.
    drop(InterceptionConfig::new(proxy, api()).register([10, 9, 9, 9].into(), soon()).unwrap());
    figures.insert("let in, the only vm, us".into(), time());
    let address = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 8, 0, 0)) + n);
    let others: Vec<_> = (0..MANY)
        .map(|n| InterceptionConfig::new(proxy, api()).register(address(n), soon()).unwrap())
        .collect();
    figures.insert(format!("let in, besides {MANY}, us"), time());
    drop(others);
}

/// A policy as one has it: an API of which a few requests are allowed.
fn api() -> Policy {
    let rules = ["GET /", "GET /large", "POST /things/{id}", "GET /repos/{owner}/{repo}"];
    let permission = Permission {
        name: "use".to_owned(),
        rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
    };
    let grants = Grants {
        allow: vec!["use".to_owned()],
        deny: Vec::new(),
        ask: Vec::new(),
        unknown_policy: Verdict::Deny,
    };
    let api = Api {
        base: format!("https://{NAME}"),
        has_credential: false,
        permissions: vec![permission],
    };
    let firewall = Firewall { name: "api".to_owned(), policy: Some(grants), apis: vec![api] };
    Policy { firewalls: vec![firewall], ..Policy::none() }
}

/// A guest and its trusted root certificates.
struct Client {
    guest: Guest,
    tls: Arc<ClientConfig>,
    _pass: Option<Box<dyn Registration>>,
    _lease: Lease,
}

impl Client {
    fn direct(pool: &Pool, roots: &Path) -> Self {
        let mut lease = pool.lease(soon()).unwrap();
        lease.apply(&Network::default()).unwrap();
        Self::of(lease, None, roots)
    }

    fn behind(pool: &Pool, proxy: &Arc<Proxy>, policy: Policy, roots: &Path) -> Self {
        let mut lease = intercepted(pool);
        let pass = InterceptionConfig::new(proxy, policy)
            .register(lease.address().unwrap(), soon())
            .unwrap();
        lease.intercept(pass.port(), pass.observer()).unwrap();
        Self::of(lease, Some(pass), roots)
    }

    fn behind_port(pool: &Pool, port: u16, roots: &Path) -> Self {
        let mut lease = intercepted(pool);
        lease.intercept(port, Arc::new(Deaf)).unwrap();
        Self::of(lease, None, roots)
    }

    fn of(lease: Lease, pass: Option<Box<dyn Registration>>, roots: &Path) -> Self {
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_file(roots).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let guest = Guest::behind(&lease);
        Self { guest, tls: Arc::new(tls), _pass: pass, _lease: lease }
    }

    fn connect(&self) -> Stream {
        let guest = &self.guest;
        let stream = guest.run(|| TcpStream::connect((INTERNET, 443)).unwrap());
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.tls), name).unwrap(), stream)
    }
}

fn intercepted(pool: &Pool) -> Lease {
    let mut lease = pool.lease(soon()).unwrap();
    let policy = sandbox::Policy::intercepted(&[]);
    lease.apply(&Network { policy, ..Network::default() }).unwrap();
    lease
}

/// An observer that ignores all events.
struct Deaf;

impl EgressObserver for Deaf {
    fn may_resolve(&self, _name: &str) -> bool {
        true
    }

    fn dropped(&self, _packet: Dropped) {}
}

/// Asks, and returns the length of the answer's body.
fn get(stream: &mut Stream, path: &str) -> usize {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {NAME}\r\n\r\n").unwrap();
    let mut buffer = vec![0; 256 << 10];
    let mut head = Vec::new();
    let (body, end) = loop {
        let count = stream.read(&mut buffer).unwrap();
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break (head.len() - end - 4, end);
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200"), "{text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let length: usize = length.parse().unwrap();
    let mut left = length - body;
    while left > 0 {
        left -= stream.read(&mut buffer).unwrap();
    }
    length
}

/// mitmproxy with the options that ours has, and without our addon.
struct Plain(Child);

impl Plain {
    fn start(folder: &Path, roots: &Path) -> Self {
        let confdir = folder.join("plain");
        fs::create_dir(&confdir).unwrap();
        let authority = folder.join("state/authority/ca.pem");
        fs::copy(authority, confdir.join("mitmproxy-ca.pem")).unwrap();
        let child = Command::new(intercept::PROGRAM)
            .args(["--quiet", "--mode", "transparent", "--listen-port", &PLAIN.to_string()])
            .args(["--set", &format!("confdir={}", confdir.display())])
            .args(["--set", "connection_strategy=lazy", "--set", "upstream_cert=false"])
            .args(["--set", "flow_detail=0", "--set", "stream_large_bodies=1"])
            .args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", roots.display())])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, PLAIN)).is_err() {
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
