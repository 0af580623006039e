//! What a subscription to Ably costs: see README.md beside this file.
//!
//! The server is that of the tests, in Node with Ably's own codec. Each message has the time at which
//! the server began to encode it; a bare WebSocket client takes the same from another such server, in
//! turns, so that what else the machine does falls on both.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails has no result")]

#[allow(dead_code, reason = "tests use more of it")]
#[path = "../src/ably-subscriber/tests/subscription/server.rs"]
mod server;

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ably_subscriber::{Config, Data, Event, Hosts, Subscription, subscribe};
use crossbeam_channel::{Receiver, unbounded};
use nix::time::{ClockId, clock_gettime};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use server::Server;

const MESSAGES: usize = 5_000;
const SUBSCRIPTIONS: usize = 50;
const IDLE: Duration = Duration::from_secs(10);

/// Where Debian and others keep the system's store.
const STORE: &str = "/etc/ssl/certs/ca-certificates.crt";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address] = &arguments[..]
        && word == "memory"
    {
        return println!("{}", memory(address));
    }
    // First, since its thread is found by its name.
    let idle = idle();
    let (ours, bare) = latencies();
    println!("message to event, p50 and p99, µs         {:7.0} {:7.0}", ours[0], ours[1]);
    println!("to a bare client, p50 and p99, µs         {:7.0} {:7.0}", bare[0], bare[1]);
    println!("ratio of p50                              {:7.2}", ours[0] / bare[0]);
    println!("memory of a subscription, KiB             {:>7}", memory_of("127.0.0.1"));
    println!("memory of a subscription over TLS, KiB    {:>7}", memory_of("127.0.0.2"));
    println!("wake-ups in {} s without heartbeats       {:7}", IDLE.as_secs(), idle);
}

/// p50 and p99 in µs: of a subscriber, and of a bare client.
fn latencies() -> ([f64; 2], [f64; 2]) {
    let (first, second) = (Server::start(), Server::start());
    let ours = subscriber_times(connected_to(&first.address()));
    let bare = bare_times(&second);
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..MESSAGES {
        first.command(&json!({ "op": "stamp" }));
        times.0.push(ours.recv().unwrap());
        second.command(&json!({ "op": "stamp" }));
        times.1.push(bare.recv().unwrap());
    }
    (percentiles(times.0), percentiles(times.1))
}

/// How long each message took, in ns, as a thread sees it that waits for events.
fn subscriber_times(subscription: Subscription) -> Receiver<u64> {
    let (sender, times) = unbounded();
    start(move || {
        for event in &subscription {
            let now = now();
            let Event::Message(message) = event else { return };
            let Data::Text(stamp) = message.data else { panic!("no stamp") };
            let _ = sender.send(now - stamp.parse::<u64>().unwrap());
        }
    });
    times
}

/// The same, as a thread sees it that reads a WebSocket.
fn bare_times(server: &Server) -> Receiver<u64> {
    // For the server to give out a token.
    drop(connected_to(&server.address()));
    let token = server.command(&json!({ "op": "latest" }));
    let url = format!("ws://x/?access_token={}&format=msgpack&v=5", token[1].as_str().unwrap());
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut socket, _) = tungstenite::client(url, stream).unwrap();
    socket.read().expect("CONNECTED");
    let (sender, times) = unbounded();
    start(move || {
        while let Ok(frame) = socket.read() {
            let now = now();
            let bytes = frame.into_data();
            // The stamp is the longest number.
            let numbers = bytes.split(|byte| !byte.is_ascii_digit());
            let stamp = numbers.max_by_key(|number| number.len()).unwrap();
            let stamp: u64 = std::str::from_utf8(stamp).unwrap().parse().unwrap();
            let _ = sender.send(now - stamp);
        }
    });
    times
}

/// Of one among many subscriptions at `address`, in KiB; a process of its own finds it out, whose store
/// has the system's authorities and one for the server.
fn memory_of(address: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let [store, certificate, key] =
        ["store", "certificate", "key"].map(|name| folder.path().join(name));
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![address.to_owned()]).unwrap();
    fs::write(&certificate, params.signed_by(&pair, &issuer).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    let system = fs::read_to_string(STORE).unwrap_or_default();
    fs::write(&store, format!("{system}{}", issuer.pem())).unwrap();
    let server = match address {
        "127.0.0.1" => Server::start(),
        _ => Server::start_tls(&certificate, &key),
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["memory", &format!("{address}:{}", server.port)])
        .env("SSL_CERT_FILE", store)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn memory(address: &str) -> usize {
    let mut subscriptions = vec![connected_to(address)];
    let before = resident();
    subscriptions.extend((0..SUBSCRIPTIONS).map(|_| connected_to(address)));
    let after = resident();
    drop(subscriptions);
    (after - before) / SUBSCRIPTIONS
}

/// VmRSS, in KiB.
fn resident() -> usize {
    number("/proc/self/status", "VmRSS:")
}

/// How often the subscription's thread woke without a reason.
fn idle() -> usize {
    let server = Server::start();
    let subscription = connected_to(&server.address());
    // It may still be on its way to sleep.
    subscription.recv_timeout(Duration::from_secs(1)).unwrap_err();
    let before = sleeps();
    subscription.recv_timeout(IDLE).unwrap_err();
    sleeps() - before
}

fn sleeps() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let paths = tasks.map(|task| task.path().display().to_string());
    let mut ours = paths.filter(|path| {
        // The others may have ended meanwhile.
        fs::read_to_string(format!("{path}/comm")).is_ok_and(|name| name == "ably\n")
    });
    let path = ours.next().unwrap();
    number(&format!("{path}/status"), "voluntary_ctxt_switches:")
}

fn number(file: &str, key: &str) -> usize {
    let status = fs::read_to_string(file).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn connected_to(address: &str) -> Subscription {
    let hosts = Hosts::new(address, address).unwrap();
    let subscription = subscribe(Config::new("jobs", server::request).hosts(hosts)).unwrap();
    assert_eq!(subscription.recv(), Ok(Event::Connected));
    subscription
}

/// By the monotonic clock, in ns, as the server has it.
fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap()
}

fn percentiles(mut times: Vec<u64>) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times[times.len() * percent / 100] as f64 / 1000.0)
}

fn start(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name("taker".into()).spawn(work).unwrap();
}
