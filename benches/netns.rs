//! What a network costs, against the same made with `ip` and `nft` commands, and against a bare tap.
//!
//! `cargo bench -p netns --bench netns -- [--json]`, as root, with iproute2 and nftables installed.
//! All of it happens in namespaces of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::testing::{Guest, INTERNET, World, frame};
use netns::{Config, Lease, Pool, guest};
use sandbox::{Dropped, EgressObserver};

/// Networks made at once.
const MANY: usize = 256;
/// Networks made at once each way, in turns.
const FEW: usize = 16;
/// Leases that are timed.
const LEASES: usize = 2000;
/// Sent each way, in turns.
const BYTES: usize = 512 << 20;
const ROUNDS: usize = 7;

fn main() {
    let world = World::enter();
    let mut figures = BTreeMap::new();
    creation(&mut figures);
    many(&world, &mut figures);
    leases(&mut figures);
    throughput(&world, &mut figures);
    if std::env::args().any(|argument| argument == "--json") {
        let lines: Vec<_> =
            figures.iter().map(|(name, value)| format!("  \"{name}\": {value:.3}")).collect();
        println!("{{\n{}\n}}", lines.join(",\n"));
    } else {
        for (name, value) in figures {
            println!("{name:40} {value:12.3}");
        }
    }
}

type Figures = BTreeMap<&'static str, f64>;

fn pool(size: usize) -> Pool {
    let lock_path = std::env::temp_dir().join(format!("netns-bench-{}.lock", std::process::id()));
    Pool::start(Config { size, lock_path, ..Config::default() }).unwrap()
}

fn lease(pool: &Pool) -> Lease {
    pool.lease(Instant::now() + Duration::from_secs(60)).unwrap()
}

/// A few networks, ours and by commands, in turns.
fn creation(figures: &mut Figures) {
    // So that the host is set up already, as it is where a second pool starts.
    let _first = lease(&pool(1));
    let (mut ours, mut alone, mut theirs) = (vec![], vec![], vec![]);
    let (mut removed, mut deleted) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let pool_of_few = pool(FEW);
        let leases: Vec<_> = (0..FEW).map(|_| lease(&pool_of_few)).collect();
        ours.push(begun.elapsed() / FEW as u32);
        let begun = Instant::now();
        drop((leases, pool_of_few));
        removed.push(begun.elapsed() / FEW as u32);
        theirs.extend((0..FEW).map(by_commands));
        deleted.extend((0..FEW).map(delete_by_commands));
        let begun = Instant::now();
        let pool_of_one = pool(1);
        let only = lease(&pool_of_one);
        alone.push(begun.elapsed());
        drop((pool_of_one, only));
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    figures.insert("create, each of 16, ms", ms(ours));
    figures.insert("create by commands ms", ms(theirs));
    figures.insert("create ratio", theirs.as_secs_f64() / ours.as_secs_f64());
    figures.insert("start of a pool of one until its lease ms", ms(median(&mut alone)));
    figures.insert("remove, each of 16, ms", ms(median(&mut removed)));
    figures.insert("remove by commands ms", ms(median(&mut deleted)));
}

/// The same network as the usual scripts make it.
fn by_commands(number: usize) -> Duration {
    let (name, link) = (format!("bench-{number}"), format!("bench{number}"));
    let (host, inner) = (format!("10.201.{number}.1"), format!("10.201.{number}.2"));
    let begun = Instant::now();
    run(&["ip", "netns", "add", &name], "");
    run(
        &["ip", "link", "add", &link, "type", "veth", "peer", "name", "uplink", "netns", &name],
        "",
    );
    run(&["ip", "addr", "add", &format!("{host}/30"), "dev", &link], "");
    run(&["ip", "link", "set", &link, "up"], "");
    run(&["ip", "-n", &name, "link", "set", "lo", "up"], "");
    run(&["ip", "-n", &name, "addr", "add", &format!("{inner}/30"), "dev", "uplink"], "");
    run(&["ip", "-n", &name, "link", "set", "uplink", "up"], "");
    run(&["ip", "-n", &name, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"], "");
    run(&["ip", "-n", &name, "link", "set", "tap0", "address", "02:00:00:00:00:02"], "");
    run(&["ip", "-n", &name, "addr", "add", "192.168.241.1/29", "dev", "tap0"], "");
    run(&["ip", "-n", &name, "link", "set", "tap0", "up"], "");
    run(&["ip", "-n", &name, "route", "add", "default", "via", &host], "");
    let exec = ["ip", "netns", "exec", &name];
    run(&[&exec[..], &["sysctl", "-qw", "net.ipv4.ip_forward=1"]].concat(), "");
    run(&[&exec[..], &["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]].concat(), "");
    run(&[&exec[..], &["nft", "-f", "-"]].concat(), &RULES.replace("SLOT", &inner));
    begun.elapsed()
}

fn delete_by_commands(number: usize) -> Duration {
    let begun = Instant::now();
    run(&["ip", "link", "del", &format!("bench{number}")], "");
    run(&["ip", "netns", "del", &format!("bench-{number}")], "");
    begun.elapsed()
}

/// As ours are, in the words of `nft`.
const RULES: &str = "
table netdev guard {
    chain ingress {
        type filter hook ingress device tap0 priority 0; policy drop;
        ether saddr != 02:00:00:00:00:01 counter drop
        ether type ip ip saddr 192.168.241.2 counter accept
        ether type arp arp saddr ip 192.168.241.2 limit rate 50/second accept
        counter drop
    }
}
table ip gate {
    set internal {
        type ipv4_addr; flags interval;
        elements = { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16,
            172.16.0.0/12, 192.0.0.0/24, 192.0.2.0/24, 192.168.0.0/16, 198.18.0.0/15,
            198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/3 }
    }
    chain admit { ct mark set 1 accept
    }
    chain refuse {
        counter limit rate 50/second reject with icmp type admin-prohibited
        drop
    }
    chain decide {
        ip daddr @internal goto refuse
        goto admit
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related ct mark 1 oifname tap0 counter accept
        ct state established,related ct mark 1 iifname tap0 accept
        oifname tap0 drop
        ct state invalid drop
        iifname tap0 ct state new ct count over 4096 counter reject
        iifname tap0 goto decide
    }
    chain input {
        type filter hook input priority 0; policy drop;
        iifname tap0 ip daddr 192.168.241.1 accept
        iifname tap0 goto refuse
    }
    chain leave {
        type nat hook postrouting priority srcnat;
        oifname uplink snat to SLOT
    }
}
";

fn run(line: &[&str], input: &str) {
    let mut command = Command::new(line[0]);
    let mut child = command.args(&line[1..]).stdin(Stdio::piped()).spawn().expect("ip and nft");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{line:?}");
}

/// Many networks at once.
fn many(world: &World, figures: &mut Figures) {
    let begun = Instant::now();
    let pool = pool(MANY);
    let first = lease(&pool);
    figures.insert("256: first ready ms", ms(begun.elapsed()));
    let rules = world.count_rules() as f64;
    let leases: Vec<_> = (1..MANY).map(|_| lease(&pool)).collect();
    let all = begun.elapsed();
    figures.insert("256: all ready ms", ms(all));
    figures.insert("256: each ms", ms(all) / MANY as f64);
    figures.insert("rules on the host with the first", rules);
    figures.insert("rules on the host with 256", world.count_rules() as f64);
    let begun = Instant::now();
    drop((first, leases, pool));
    figures.insert("256: removed ms", ms(begun.elapsed()));
}

/// What a job waits for, and how soon its network is ready for the next.
fn leases(figures: &mut Figures) {
    let pool = pool(2);
    let (mut hits, mut releases, mut used) = (vec![], vec![], vec![]);
    let packet = frame::udp(guest::MAC, guest::ADDRESS, INTERNET, 9);
    for round in 0..LEASES {
        while pool.ready() < 2 {
            std::thread::yield_now();
        }
        let begun = Instant::now();
        let lease = lease(&pool);
        hits.push(begun.elapsed());
        // Every fourth one has something to forget.
        let is_used = round % 4 == 0;
        if is_used {
            lease.open_tap().unwrap().write_all(&packet).unwrap();
        }
        let begun = Instant::now();
        drop(lease);
        while pool.ready() < 2 {
            std::thread::yield_now();
        }
        if is_used { &mut used } else { &mut releases }.push(begun.elapsed());
    }
    figures.insert("lease p50 us", us(median(&mut hits)));
    figures.insert("lease p99 us", us(hits[hits.len() * 99 / 100]));
    figures.insert("release to ready, used, p50 ms", ms(median(&mut used)));
    figures.insert("release to ready, used, p99 ms", ms(used[used.len() * 99 / 100]));
    figures.insert("release to ready p50 ms", ms(median(&mut releases)));
    figures.insert("release to ready p99 ms", ms(releases[releases.len() * 99 / 100]));
}

/// TCP from a guest: to the host, redirected as to a proxy; to the internet, by way of the host; and
/// to the other end of a bare tap.
fn throughput(world: &World, figures: &mut Figures) {
    let pool = pool(2);
    let near = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = near.local_addr().unwrap().port();
    let mut redirected = lease(&pool);
    redirected.intercept(port, Arc::new(Deaf)).unwrap();
    let (to_host, open) = (Guest::behind(&redirected), lease(&pool));
    let (to_internet, (bare, end)) = (Guest::behind(&open), Guest::bare());
    let far = world.on_the_internet(|| TcpListener::bind((INTERNET, 0)).unwrap());
    let bare_end = TcpListener::bind((end, 0)).unwrap();
    let (mut host, mut internet, mut least) = (vec![], vec![], vec![]);
    let target = |listener: &TcpListener| listener.local_addr().unwrap();
    for _ in 0..ROUNDS {
        host.push(send(&to_host, (INTERNET, 80).into(), &near));
        least.push(send(&bare, target(&bare_end), &bare_end));
        internet.push(send(&to_internet, target(&far), &far));
    }
    let rate = |times: &mut [Duration]| BYTES as f64 * 8.0 / median(times).as_secs_f64() / 1e9;
    let (host, internet, least) = (rate(&mut host), rate(&mut internet), rate(&mut least));
    figures.insert("guest to host Gbit/s", host);
    figures.insert("guest to internet Gbit/s", internet);
    figures.insert("guest over a bare tap Gbit/s", least);
    figures.insert("throughput ratio, to host", host / least);
    figures.insert("throughput ratio, to internet", internet / least);
}

/// An observer that ignores all events.
struct Deaf;

impl EgressObserver for Deaf {
    fn may_resolve(&self, _name: &str) -> bool {
        true
    }

    fn dropped(&self, _packet: Dropped) {}
}

fn send(guest: &Guest, to: SocketAddr, arrives_at: &TcpListener) -> Duration {
    let mut client = guest.run(|| TcpStream::connect(to).unwrap());
    let (mut peer, _) = arrives_at.accept().unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![0; 1 << 20];
            for _ in 0..BYTES / block.len() {
                client.write_all(&block).unwrap();
            }
        });
        let mut block = vec![0; 1 << 20];
        while peer.read(&mut block).unwrap() > 0 {}
    });
    begun.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
