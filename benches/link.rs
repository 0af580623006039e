//! The guest link against the least that does the same: see README.md beside this file.
//!
//! The guest end and the raw peer are processes of their own, as in reality: this program again,
//! started with `peer`. All figures of a row are taken in turns in one run, so that what else the
//! machine does falls on both.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use vsock_guest::{Service, serve};
use vsock_host::{Event, Guest, Reactor, TreeItem};
use vsock_proto::{
    CHUNK, Decoder, GuestBody, GuestMessage, Read as ReadRequest, RequestId, Stream,
    Write as WriteRequest, encode,
};
use vsock_test::{argv, config, file, read_from, soon, write_to};

/// The size of the raw peer's requests and echoes.
const MESSAGE: usize = 64;

/// How much a file has.
const FILE: usize = 256 << 20;

/// What the raw peer is asked, by a message's first byte.
const ECHO: u8 = 0;
const STORE: u8 = 1;
const FETCH: u8 = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["peer", "guest", path] => guest_peer(Path::new(path)),
        ["peer", "raw", path] => raw_peer(Path::new(path)),
        _ => report(&measure(), words.contains(&"--json")),
    }
}

/// One line of the result.
struct Row {
    name: &'static str,
    unit: &'static str,
    link: f64,
    /// What it is compared with, if with anything of this run.
    raw: Option<f64>,
    target: Target,
}

/// What the figure, or its ratio to the raw one, should be.
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

fn measure() -> Vec<Row> {
    let bench = Bench::start();
    let (ping, echo) = bench.pings();
    let (exec, spawn) = bench.execs();
    let (write, store) = bench.writes();
    let (read, fetch) = bench.reads();
    let under_load = bench.pings_under_load();
    bench.stop();
    let microseconds = |samples: &[Duration], share| quantile(samples, share).as_secs_f64() * 1e6;
    let rate = |samples: &[Duration]| FILE as f64 / quantile(samples, 0.5).as_secs_f64() / 1e9;
    let row = |name, unit, link, raw, target| Row { name, unit, link, raw, target };
    let time = |name, link: &[Duration], raw: &[Duration], target| {
        let raw = Some(microseconds(raw, 0.5));
        row(name, "us", microseconds(link, 0.5), raw, Target::AtMost(target))
    };
    let speed = |name, link: &[Duration], raw: &[Duration]| {
        row(name, "GB/s", rate(link), Some(rate(raw)), Target::AtLeast(0.8))
    };
    let loaded = |name, share| {
        row(name, "us", microseconds(&under_load, share), None, Target::AtMost(10_000.0))
    };
    vec![
        time("ping / echo of 64 bytes", &ping, &echo, 1.5),
        time("exec of true / spawn of true + echo", &exec, &spawn, 1.3),
        speed("write 256 MiB / socket to file", &write, &store),
        speed("read 256 MiB / file to socket", &read, &fetch),
        row("decoder, payloads of 64 KiB", "GB/s", decoder(), None, Target::AtLeast(2.0)),
        loaded("ping behind 100 MiB of output, p50", 0.5),
        loaded("ping behind 100 MiB of output, p99", 0.99),
    ]
}

/// Both peers, and the folder for their files.
struct Bench {
    guest: Guest,
    raw: UnixStream,
    payload: Vec<u8>,
    folder: tempfile::TempDir,
    peers: [Child; 2],
    _reactor: Reactor,
}

impl Bench {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reactor = Reactor::start().unwrap();
        let path = folder.path().join("guest");
        let listener = reactor.listen(&path, "bench").unwrap();
        let guest_peer = start_peer("guest", &path);
        let guest = listener.accept(soon()).unwrap();
        let path = folder.path().join("raw");
        let listener = UnixListener::bind(&path).unwrap();
        let raw_peer = start_peer("raw", &path);
        let (raw, _) = listener.accept().unwrap();
        let payload = (0..FILE as u32).map(|number| (number % 251) as u8).collect();
        Self { guest, raw, payload, folder, peers: [guest_peer, raw_peer], _reactor: reactor }
    }

    fn pings(&self) -> (Vec<Duration>, Vec<Duration>) {
        let ping = || {
            self.guest.ping(soon()).unwrap();
        };
        in_turns(40, 250, ping, || self.ask(ECHO))
    }

    fn execs(&self) -> (Vec<Duration>, Vec<Duration>) {
        let exec = || {
            let execution = self.guest.exec(argv(&["/bin/true"]), soon()).unwrap();
            assert_eq!(execution.wait(Some(soon())).unwrap().outcome.exit_code(), 0);
        };
        let spawn = || {
            assert!(Command::new("/bin/true").status().unwrap().success());
            self.ask(ECHO);
        };
        in_turns(40, 50, exec, spawn)
    }

    fn writes(&self) -> (Vec<Duration>, Vec<Duration>) {
        let write = || {
            let mut tree = self.guest.write(self.target(), soon()).unwrap();
            tree.entry(file(""), soon()).unwrap();
            tree.data(&self.payload, soon()).unwrap();
            tree.finish(soon()).unwrap();
        };
        let store = || {
            self.ask(STORE);
            self.payload.chunks(CHUNK).for_each(|chunk| (&self.raw).write_all(chunk).unwrap());
            self.hear();
        };
        in_turns(10, 1, write, store)
    }

    fn reads(&self) -> (Vec<Duration>, Vec<Duration>) {
        let read = || {
            let mut tree = self.guest.read(self.source(), soon()).unwrap();
            let mut total = 0;
            while let Some(item) = tree.next(soon()).unwrap() {
                if let TreeItem::Data(data) = item {
                    total += black_box(data).len();
                }
            }
            assert_eq!(total, FILE);
        };
        let fetch = || {
            self.ask(FETCH);
            copy(&self.raw, &mut std::io::sink());
        };
        in_turns(10, 1, read, fetch)
    }

    /// One ping for each piece that a slow reader takes.
    fn pings_under_load(&self) -> Vec<Duration> {
        let exec = argv(&["head", "-c", "104857600", "/dev/zero"]);
        let execution = self.guest.exec(exec, soon()).unwrap();
        let mut samples = Vec::new();
        while let Event::Output { .. } = execution.next(Some(soon())).unwrap() {
            samples.push(self.guest.ping(soon()).unwrap());
        }
        samples
    }

    fn target(&self) -> WriteRequest {
        write_to(&self.folder.path().join("file-guest"))
    }

    fn source(&self) -> ReadRequest {
        read_from(&self.folder.path().join("file-guest"))
    }

    /// Both peers end when their last connection closes.
    fn stop(self) {
        let Self { guest, raw, peers, .. } = self;
        drop((guest, raw));
        for mut peer in peers {
            assert!(peer.wait().unwrap().success());
        }
    }

    /// Sends the raw peer a message, and waits for its echo.
    fn ask(&self, what: u8) {
        let mut message = [0; MESSAGE];
        message[0] = what;
        (&self.raw).write_all(&message).unwrap();
        self.hear();
    }

    fn hear(&self) {
        (&self.raw).read_exact(&mut [0; MESSAGE]).unwrap();
    }
}

/// Starts this program again, to connect to `path`.
fn start_peer(kind: &str, path: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).arg("peer").arg(kind).arg(path).spawn().unwrap()
}

/// The guest end.
fn guest_peer(path: &Path) {
    let connection = UnixStream::connect(path).unwrap();
    serve(connection.into(), &mut Service::new(config())).unwrap();
}

/// Echoes messages, and copies between its socket and a file.
fn raw_peer(path: &Path) {
    let mut host = UnixStream::connect(path).unwrap();
    let path = path.with_file_name("file-raw");
    let mut message = [0; MESSAGE];
    while host.read_exact(&mut message).is_ok() {
        host.write_all(&message).unwrap();
        match message[0] {
            STORE => {
                copy(&host, &mut File::create(&path).unwrap());
                host.write_all(&message).unwrap();
            }
            FETCH => copy(&File::open(&path).unwrap(), &mut host),
            _ => {}
        }
    }
}

/// Copies a file's worth of bytes by a buffer of a chunk.
fn copy(from: impl Read, to: &mut impl Write) {
    let mut from = from.take(FILE as u64);
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => return,
            count => to.write_all(black_box(&buffer[..count])).unwrap(),
        }
    }
}

/// How long each call takes, over `rounds` of so many of the one and then of the other.
fn in_turns(
    rounds: usize,
    calls: usize,
    one: impl Fn(),
    other: impl Fn(),
) -> (Vec<Duration>, Vec<Duration>) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    // The first round is to warm up.
    for round in 0..=rounds {
        for (call, samples) in [(&one as &dyn Fn(), &mut first), (&other, &mut second)] {
            for _ in 0..calls {
                let start = Instant::now();
                call();
                samples.extend((round > 0).then(|| start.elapsed()));
            }
        }
    }
    (first, second)
}

/// Bytes of payload per nanosecond; the copy into the decoder's buffer counts, as a read would.
fn decoder() -> f64 {
    let mut frames = Vec::new();
    let payload = vec![7; CHUNK];
    let body = GuestBody::Data(Stream::Stdout, &payload);
    let count = 256;
    for _ in 0..count {
        encode(&GuestMessage { id: RequestId(1), body: body.clone() }, &mut frames).unwrap();
    }
    let decode = || {
        let mut decoder = Decoder::new();
        for bytes in frames.chunks(CHUNK) {
            decoder.push(bytes);
            while let Some(message) = decoder.next::<GuestMessage<'_>>().unwrap() {
                black_box(message);
            }
        }
    };
    let (samples, _) = in_turns(50, 1, decode, || {});
    (count * CHUNK) as f64 / quantile(&samples, 0.5).as_nanos() as f64
}

/// The sample that a share of all are below.
fn quantile(samples: &[Duration], share: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

impl Row {
    /// What the target is about.
    fn figure(&self) -> f64 {
        self.raw.map_or(self.link, |raw| self.link / raw)
    }

    fn is_met(&self) -> bool {
        match self.target {
            Target::AtMost(limit) => self.figure() <= limit,
            Target::AtLeast(limit) => self.figure() >= limit,
        }
    }
}

fn report(rows: &[Row], as_json: bool) {
    if as_json {
        let rows: Vec<_> = rows.iter().map(json).collect();
        return println!("{:#}", serde_json::Value::from(rows));
    }
    println!("{:38} {:>10} {:>10} {:>6}  target", "", "link", "raw", "ratio");
    for row in rows {
        let Row { name, unit, link, .. } = row;
        let raw = row.raw.map_or(String::new(), |raw| format!("{raw:.2}"));
        let ratio = row.raw.map_or(String::new(), |_| format!("{:.2}", row.figure()));
        let target = match row.target {
            Target::AtMost(limit) => format!("<= {limit}"),
            Target::AtLeast(limit) => format!(">= {limit}"),
        };
        let verdict = if row.is_met() { "" } else { "  MISSED" };
        println!("{name:38} {link:10.2} {raw:>10} {ratio:>6}  {target}{verdict} ({unit})");
    }
}

fn json(row: &Row) -> serde_json::Value {
    let (bound, limit) = match row.target {
        Target::AtMost(limit) => ("at most", limit),
        Target::AtLeast(limit) => ("at least", limit),
    };
    serde_json::json!({
        "name": row.name, "unit": row.unit, "link": row.link, "raw": row.raw,
        "figure": row.figure(), "target": { bound: limit }, "met": row.is_met(),
    })
}
