//! What a thousand idle runners cost a platform and its PostgreSQL. See README.md beside this file.
//!
//! The platform is a process of its own (`serve` below). This one has the runners: each has a held poll on one
//! connection, and a heartbeat every 10 s on another.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use host_test::postgres::Server;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use platform::{Client, Config, ConnectionString, Database, Platform, RunId, Submission};
use serde_json::{Value, json};

const RUNNERS: usize = 1000;

const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long the runners are there before they are measured: longer than a poll is held.
const WARM_UP: Duration = Duration::from_secs(40);
const MEASURED: Duration = Duration::from_secs(60);

/// How many jobs are submitted then, one after the other.
const JOBS: usize = 50;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    if let [serve, state, database] = &words[..]
        && serve == "serve"
    {
        return serve_at(Path::new(state), database);
    }
    let mut server = Server::start();
    server.sql("postgres", "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'");
    server.stop();
    server.run();
    server.sql("postgres", "CREATE EXTENSION pg_stat_statements");
    server.sql("postgres", "CREATE DATABASE jobs");
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::start(folder.path(), &server.url("jobs"));
    let empty = replica.memory_kib();
    let mut fleet = Fleet::connect(&replica);
    fleet.run_until(Instant::now() + WARM_UP, |_| false);
    let (before, transactions, begun) = (statements(&server), commits(&server), Instant::now());
    let (polls, beats) = (fleet.polls, fleet.beats);
    fleet.run_until(Instant::now() + MEASURED, |_| false);
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = |count: u64| count as f64 / seconds;
    let idle = statements(&server) - before;
    let idle_commits = commits(&server) - transactions;
    let memory = replica.memory_kib();
    let rows = [
        ("held polls answered, 1/s", per_second(fleet.polls - polls), ""),
        ("heartbeats answered, 1/s", per_second(fleet.beats - beats), ""),
        ("statements of the database, 1/s", per_second(idle), "<= 50"),
        ("transactions of the database, 1/s", per_second(idle_commits), ""),
        ("memory of the platform, MiB", memory as f64 / 1024.0, "<= 64"),
        ("memory of the platform without runners, MiB", empty as f64 / 1024.0, ""),
        ("threads of the platform", replica.status("Threads:") as f64, ""),
    ];
    let before = statements(&server);
    let client = Client::new(folder.path());
    let mut times: Vec<f64> = (0..JOBS).map(|_| offered(&client, &mut fleet)).collect();
    let per_job = (statements(&server) - before) as f64 / JOBS as f64;
    times.sort_unstable_by(f64::total_cmp);
    let jobs = [
        ("submitted to offered to one of them, p50 ms", times[JOBS / 2], ""),
        ("submitted to offered to one of them, p90 ms", times[JOBS * 9 / 10], ""),
        ("statements for a job: submission, offer, cancellation", per_job, ""),
    ];
    for (name, value, limit) in rows.iter().chain(&jobs) {
        println!("{name:<60} {value:>9.1}  {limit}");
    }
    if words.iter().any(|word| word == "--statements") {
        let top = "SELECT calls || '  ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 110)
                   FROM pg_stat_statements JOIN pg_database ON oid = dbid
                   WHERE datname = 'jobs' ORDER BY calls DESC LIMIT 30";
        println!("{}", server.sql("postgres", top));
    }
}

/// The platform's process.
fn serve_at(state: &Path, database: &str) {
    let mut config = Config::new(state);
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.database = Database::Postgres(ConnectionString::new(database));
    let platform = Platform::start(config).unwrap();
    println!("{} {}", platform.addresses()[0], platform.runner_token());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    platform.stop().unwrap();
}

/// The statements that the database has run for the platform, also BEGIN and COMMIT.
fn statements(server: &Server) -> u64 {
    let query = "SELECT sum(calls) FROM pg_stat_statements JOIN pg_database ON oid = dbid
                 WHERE datname = 'jobs'";
    server.sql("postgres", query).parse().unwrap()
}

fn commits(server: &Server) -> u64 {
    let query = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'jobs'";
    server.sql("postgres", query).parse().unwrap()
}

struct Replica {
    child: Child,
    address: SocketAddr,
    token: String,
}

impl Replica {
    fn start(state: &Path, database: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("serve").arg(state).arg(database);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (address, token) = line.trim_end().split_once(' ').unwrap();
        Self { child, address: address.parse().unwrap(), token: token.to_owned() }
    }

    fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// A connection with a request under way, or none.
struct Line {
    socket: TcpStream,
    reply: Vec<u8>,
}

impl Line {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, reply: Vec::new() }
    }

    fn post(&mut self, path: &str, token: &str, body: &Value) {
        let body = body.to_string();
        let request = format!(
            "POST /api/runners/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.write_all(request.as_bytes()).unwrap();
    }

    /// Reads what is there; the replies that are complete. A late heartbeat's comes with the next one's.
    fn read(&mut self) -> Vec<Value> {
        let mut piece = [0; 4096];
        let count = self.socket.read(&mut piece).unwrap();
        assert!(count > 0, "the platform closed a connection");
        self.reply.extend_from_slice(&piece[..count]);
        std::iter::from_fn(|| self.take()).collect()
    }

    fn take(&mut self) -> Option<Value> {
        let text = String::from_utf8_lossy(&self.reply).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let body = body.get(..length.unwrap().parse().unwrap())?;
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        self.reply.drain(..head.len() + 4 + body.len());
        Some(serde_json::from_str(body).unwrap())
    }
}

struct Runner {
    id: String,
    poll: Line,
    beat: Line,
    sequence: u64,
    next_beat: Instant,
}

struct Fleet {
    runners: Vec<Runner>,
    token: String,
    polls: u64,
    beats: u64,
}

impl Fleet {
    fn connect(replica: &Replica) -> Self {
        let begun = Instant::now();
        let runner = |number: usize| Runner {
            id: format!("{number:08x}-2222-4333-8444-555555555555"),
            poll: Line::connect(replica.address),
            beat: Line::connect(replica.address),
            sequence: 0,
            next_beat: begun + HEARTBEAT * u32::try_from(number).unwrap() / RUNNERS as u32,
        };
        let runners = (0..RUNNERS).map(runner).collect();
        Self { runners, token: replica.token.clone(), polls: 0, beats: 0 }
    }

    /// Polls and sends heartbeats until the end, or until an offer is wanted.
    fn run_until(&mut self, end: Instant, mut is_wanted: impl FnMut(&Value) -> bool) {
        while Instant::now() < end {
            self.send_heartbeats();
            for (number, is_poll) in self.readable() {
                let runner = &mut self.runners[number];
                if !is_poll {
                    self.beats += runner.beat.read().len() as u64;
                    continue;
                }
                let Some(reply) = runner.poll.read().pop() else { continue };
                self.polls += 1;
                Self::poll(runner, &self.token);
                if !reply["job"].is_null() && is_wanted(&reply["job"]["runId"]) {
                    return;
                }
            }
        }
    }

    fn poll(runner: &mut Runner, token: &str) {
        let poll = json!({"runnerId": runner.id, "group": "a/b", "supportedProfiles": ["default"]});
        runner.poll.post("poll", token, &poll);
    }

    fn send_heartbeats(&mut self) {
        let now = Instant::now();
        for runner in self.runners.iter_mut().filter(|runner| runner.next_beat <= now) {
            runner.next_beat += HEARTBEAT;
            runner.sequence += 1;
            let beat = json!({"runnerId": runner.id, "runnerName": runner.id, "group": "a/b",
                "snapshotGeneration": 1, "snapshotSequence": runner.sequence, "totalVcpu": 8,
                "totalMemoryMb": 16384, "maxConcurrent": 8, "allocatedVcpu": 0,
                "allocatedMemoryMb": 0, "runningCount": 0, "admittableProfiles": ["default"],
                "heldSessionStates": [], "mode": "running"});
            runner.beat.post("heartbeat", &self.token, &beat);
            // As a runner does: the first poll comes after the first heartbeat.
            if runner.sequence == 1 {
                Self::poll(runner, &self.token);
            }
        }
    }

    /// The runners with something to read, soon.
    fn readable(&self) -> Vec<(usize, bool)> {
        let lines = self.runners.iter().flat_map(|runner| [&runner.poll, &runner.beat]);
        let mut fds: Vec<_> =
            lines.map(|line| PollFd::new(line.socket.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::from(5_u8)).unwrap();
        let ready = fds.iter().enumerate().filter(|(_, fd)| fd.any().unwrap_or(false));
        ready.map(|(number, _)| (number / 2, number % 2 == 0)).collect()
    }
}

/// How long a job takes from its submission to the offer, in milliseconds.
fn offered(client: &Client, fleet: &mut Fleet) -> f64 {
    let begun = Instant::now();
    let submission = Submission { prompt: "x".into(), ..Submission::default() };
    let run: RunId = client.submit(&submission).unwrap().run_id;
    let mut time = None;
    fleet.run_until(begun + Duration::from_secs(20), |offered| {
        time = (*offered == json!(run)).then(|| begun.elapsed());
        time.is_some()
    });
    client.cancel(run).unwrap();
    time.unwrap().as_secs_f64() * 1e3
}
