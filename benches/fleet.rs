//! Platforms that share a PostgreSQL database: claims and events a second against the same statements by
//! `pgbench`, and how soon a job that is submitted at one is claimed at another. See README.md beside this
//! file.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use host_test::postgres::Server;
use platform::{Client, Config, ConnectionString, Database, Platform, RunId, Submission};
use serde_json::{Value, json};

/// How many clients claim jobs or send events at once, in all.
const CLIENTS: usize = 8;

const CLAIMS: usize = 2_000;

/// How many batches of events each client sends, how many events one has, and how long an event is.
const BATCHES: usize = 25;
const BATCH: usize = 100;
const TEXT: usize = 400;

/// How many jobs are submitted one after the other.
const JOBS: usize = 200;

const RUNNER: &str = "11111111-2222-4333-8444-555555555555";

/// The statements of a claim. Ours ask for the clock, too, in the message that begins.
const CLAIM: &str = r"
\set id :base + :client_id + :clients * :n
\set n :n + 1
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT generation, sequence, profiles FROM runners WHERE id = '11111111-2222-4333-8444-555555555555';
COMMIT;
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT id, status FROM jobs WHERE run = 'bench-' || CAST(:id AS text) FOR NO KEY UPDATE;
SELECT 1 FROM jobs JOIN runners ON runners.id = '11111111-2222-4333-8444-555555555555'
    WHERE jobs.id = :id AND jobs.runner_group <> runners.runner_group;
SELECT run, agent, profile, prompt, environment, context, timeout, created, session, resumed, has_secrets, COALESCE(reuse_key, run) FROM jobs WHERE id = :id;
SELECT name, storage, version, mount_path FROM mounts WHERE job = :id ORDER BY name;
SELECT attempt + 1 FROM jobs WHERE id = :id;
INSERT INTO attempts (job, attempt, state, runner, generation, claim_request, nonce, token_hash, claimed, seen)
    VALUES (:id, 1, 'live', '11111111-2222-4333-8444-555555555555', 1, 'r', sha256(CAST(CAST(:id AS text) AS bytea)), sha256(CAST('t' || CAST(:id AS text) AS bytea)), 1, 1);
UPDATE jobs SET status = 'running', attempt = 1, started = 1 WHERE id = :id;
COMMIT;
";

/// The statements of a batch of events: those before the events, and those after them.
const BEFORE: &str = r"
\set job :base + :client_id
\set position :n * 100
\set n :n + 1
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT 1 FROM jobs WHERE id = (SELECT job FROM attempts WHERE job = :job AND attempt = 1) FOR NO KEY UPDATE;
SELECT job, attempts.attempt, state, ended, run, has_secrets FROM attempts JOIN jobs ON jobs.id = job WHERE job = :job AND attempts.attempt = 1;
SELECT last_event FROM attempts WHERE job = :job AND attempt = 1;
SELECT coalesce(max(position), 0) + 1 FROM events WHERE job = :job;
";
const AFTER: &str = r"
UPDATE attempts SET events = events + 100, last_event = :position WHERE job = :job AND attempt = 1;
UPDATE attempts SET stored_bytes = stored_bytes + 40000, seen = 1 WHERE job = :job AND attempt = 1 RETURNING stored_bytes;
COMMIT;
";

fn main() {
    let as_json = std::env::args().any(|word| word == "--json");
    let server = Server::start();
    let mut rows = Vec::new();
    let claimed = [1, 2, 4].map(|replicas| Fleet::start(&server, replicas).claims());
    let by_pgbench = pgbench_claims(&server);
    rows.push(("claims by pgbench, 1/s", by_pgbench, ""));
    rows.push(("claims at 1 platform, 1/s", claimed[0], ""));
    rows.push(("claims at 2 platforms, 1/s", claimed[1], ""));
    rows.push(("claims at 4 platforms, 1/s", claimed[2], ""));
    rows.push(("claims at 1 platform / pgbench", claimed[0] / by_pgbench, ">= 0.5"));
    rows.push(("claims at 4 platforms / 1 platform", claimed[2] / claimed[0], ">= 1"));
    let taken = [1, 2, 4].map(|replicas| Fleet::start(&server, replicas).events());
    let by_pgbench = pgbench_events(&server);
    rows.push(("events by pgbench, 1/s", by_pgbench, ""));
    rows.push(("events at 1 platform, 1/s", taken[0], ""));
    rows.push(("events at 2 platforms, 1/s", taken[1], ""));
    rows.push(("events at 4 platforms, 1/s", taken[2], ""));
    rows.push(("events at 1 platform / pgbench", taken[0] / by_pgbench, ">= 0.5"));
    rows.push(("events at 4 platforms / 1 platform", taken[2] / taken[0], ">= 1"));
    let notified = notify_round_trips(&server);
    let submitted = Fleet::start(&server, 2).submit_to_claim();
    let (bare, ours) = (quantile(&notified, 0.5), quantile(&submitted, 0.5));
    rows.push(("NOTIFY to another connection and back, p50 ms", bare, ""));
    rows.push(("submitted at one, claimed at another, p50 ms", ours, ""));
    rows.push(("submitted at one, claimed at another, p99 ms", quantile(&submitted, 0.99), ""));
    rows.push(("submitted to claimed / NOTIFY", ours / bare, "<= 3"));
    report(&rows, as_json);
}

/// Platforms on a database of their own.
struct Fleet {
    platforms: Vec<Platform>,
    states: Vec<tempfile::TempDir>,
    database: String,
}

impl Fleet {
    fn start(server: &Server, replicas: usize) -> Self {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let database = format!("bench{number}");
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
        let states: Vec<_> = (0..replicas).map(|_| tempfile::tempdir().unwrap()).collect();
        let start = |state: &tempfile::TempDir| {
            let control = state.path().join("control");
            fs::create_dir(&control).unwrap();
            fs::write(control.join("key"), [7; 32]).unwrap();
            fs::write(control.join("runner.token"), "runner_of-a-benchmark").unwrap();
            let mut config = Config::new(state.path());
            config.listen = vec!["127.0.0.1:0".parse().unwrap()];
            config.database = Database::Postgres(ConnectionString::new(server.url(&database)));
            Platform::start(config).unwrap()
        };
        let platforms = states.iter().map(start).collect();
        Self { platforms, states, database }
    }

    fn client(&self, number: usize) -> Client {
        Client::new(self.states[number % self.states.len()].path())
    }

    fn connect(&self, number: usize) -> Http {
        Http::connect(self.platforms[number % self.platforms.len()].addresses()[0])
    }

    fn token(&self) -> &str {
        self.platforms[0].runner_token()
    }

    fn submit_many(&self, count: usize) -> Vec<RunId> {
        in_parallel(|number| {
            let client = self.client(number);
            (0..count / CLIENTS).map(|_| submit(&client)).collect::<Vec<_>>()
        })
        .concat()
    }

    /// Claims a second.
    fn claims(&self) -> f64 {
        self.connect(0).post("/api/runners/heartbeat", self.token(), &heartbeat());
        let runs = self.submit_many(CLAIMS);
        let start = Instant::now();
        in_parallel(|number| {
            let mut http = self.connect(number);
            for run in runs.iter().skip(number).step_by(CLIENTS) {
                http.post(&format!("/api/runners/jobs/{run}/claim"), self.token(), "{}");
            }
        });
        CLAIMS as f64 / start.elapsed().as_secs_f64()
    }

    /// Events a second.
    fn events(&self) -> f64 {
        let runs = self.submit_many(CLIENTS);
        let guest = |number: usize| {
            let mut http = self.connect(number);
            let claim = format!("/api/runners/jobs/{}/claim", runs[number]);
            let context = http.post(&claim, self.token(), "{}");
            (http, context["sandboxToken"].as_str().unwrap().to_owned())
        };
        let guests = in_parallel(guest);
        let batches: Vec<_> = (0..BATCHES).map(batch).collect();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for ((mut http, token), run) in guests.into_iter().zip(&runs) {
                let batches = &batches;
                scope.spawn(move || {
                    for events in batches {
                        let body = format!("{{\"runId\":\"{run}\",\"events\":{events}}}");
                        let received = http.post("/api/webhooks/agent/events", &token, &body);
                        assert_eq!(received["received"], BATCH);
                    }
                });
            }
        });
        (CLIENTS * BATCHES * BATCH) as f64 / start.elapsed().as_secs_f64()
    }

    /// How long each job takes from before its submission at one platform until after its claim at another,
    /// where a poll is held already, in milliseconds.
    fn submit_to_claim(&self) -> Vec<f64> {
        let client = self.client(0);
        let mut http = self.connect(1);
        http.post("/api/runners/heartbeat", self.token(), &heartbeat());
        let poll = json!({"runnerId": RUNNER, "group": "a/b", "supportedProfiles": ["default"]});
        let poll = poll.to_string();
        let mut one = || {
            http.send("/api/runners/poll", self.token(), &poll);
            // The reply comes only after the submission, so the poll is on its way or held.
            let start = Instant::now();
            submit(&client);
            let run = http.reply()["job"]["runId"].as_str().unwrap().to_owned();
            http.post(&format!("/api/runners/jobs/{run}/claim"), self.token(), "{}");
            start.elapsed().as_secs_f64() * 1e3
        };
        (0..JOBS).map(|_| one()).collect()
    }
}

/// Runs as many threads as there are clients.
fn in_parallel<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Jobs whose rows have consecutive numbers, of which this returns the first, and names by them.
fn rows(server: &Server, count: usize) -> (Fleet, String) {
    let fleet = Fleet::start(server, 1);
    fleet.connect(0).post("/api/runners/heartbeat", fleet.token(), &heartbeat());
    fleet.submit_many(count);
    server.sql(&fleet.database, "UPDATE jobs SET run = 'bench-' || id");
    let first = server.sql(&fleet.database, "SELECT min(id) FROM jobs");
    (fleet, first)
}

fn pgbench_claims(server: &Server) -> f64 {
    let (fleet, first) = rows(server, CLAIMS);
    pgbench(server, &fleet.database, (CLAIM, &first), CLAIMS / CLIENTS)
}

fn pgbench_events(server: &Server) -> f64 {
    let (fleet, first) = rows(server, CLIENTS);
    let begin = CLAIM.replace("\\set n :n + 1\n", "");
    pgbench(server, &fleet.database, (&begin, &first), 1);
    let text = "x".repeat(TEXT);
    let mut script = BEFORE.to_owned();
    for _ in 0..BATCH {
        script.push_str(&format!(
            "\\set position :position + 1\nINSERT INTO events (job, position, attempt, sequence, received, body) \
             VALUES (:job, :position, 1, :position - 1, 1, '{{\"type\":\"assistant\",\"text\":\"{text}\"}}') \
             ON CONFLICT (job, attempt, sequence) DO NOTHING;\n"
        ));
    }
    script.push_str(AFTER);
    pgbench(server, &fleet.database, (&script, &first), BATCHES) * BATCH as f64
}

/// Transactions a second.
fn pgbench(server: &Server, database: &str, (script, first): (&str, &str), each: usize) -> f64 {
    let file = server.socket().join("script.sql");
    fs::write(&file, script).unwrap();
    let mut pgbench = server.program("pgbench");
    pgbench.args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--username=postgres"]);
    pgbench.arg(format!("--client={CLIENTS}")).arg(format!("--transactions={each}"));
    pgbench.arg(format!("--define=clients={CLIENTS}")).arg(format!("--define=base={first}"));
    pgbench.arg("--define=n=0").arg("--file").arg(file).arg("--host").arg(server.socket());
    let done = pgbench.arg(database).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let failed = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("number of failed transactions: 0"), "{failed}");
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap();
    rate.split(' ').next().unwrap().parse().unwrap()
}

/// How long NOTIFY takes from one connection to another and back, in milliseconds.
fn notify_round_trips(server: &Server) -> Vec<f64> {
    let mut one = Wire::connect(server.socket());
    let mut other = Wire::connect(server.socket());
    one.query("LISTEN back");
    other.query("LISTEN there");
    let mut trip = || {
        let start = Instant::now();
        one.query("NOTIFY there");
        other.until(b'A');
        other.query("NOTIFY back");
        one.until(b'A');
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..JOBS).map(|_| trip()).collect()
}

/// A connection to PostgreSQL that can only listen and notify.
struct Wire(BufReader<UnixStream>);

impl Wire {
    fn connect(folder: &Path) -> Self {
        let socket = UnixStream::connect(folder.join(".s.PGSQL.5432")).unwrap();
        let mut wire = Self(BufReader::new(socket));
        let parameters = b"\0\x03\0\0user\0postgres\0\0";
        let length = (parameters.len() as u32 + 4).to_be_bytes();
        wire.0.get_mut().write_all(&[&length, &parameters[..]].concat()).unwrap();
        wire.until(b'Z');
        wire
    }

    fn query(&mut self, sql: &str) {
        let length = (sql.len() as u32 + 5).to_be_bytes();
        let message = [b"Q", &length[..], sql.as_bytes(), b"\0"].concat();
        self.0.get_mut().write_all(&message).unwrap();
        self.until(b'Z');
    }

    /// Reads messages up to one of this kind.
    fn until(&mut self, kind: u8) {
        let mut head = [0; 5];
        while head[0] != kind {
            self.0.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) - 4;
            let mut body = vec![0; length as usize];
            self.0.read_exact(&mut body).unwrap();
            assert_ne!(head[0], b'E', "{}", String::from_utf8_lossy(&body));
        }
    }
}

fn submit(client: &Client) -> RunId {
    let submission = Submission { prompt: "say hello".into(), ..Submission::default() };
    client.submit(&submission).unwrap().run_id
}

fn heartbeat() -> String {
    json!({"runnerId": RUNNER, "runnerName": "one", "group": "a/b", "snapshotGeneration": 1,
        "snapshotSequence": 1, "totalVcpu": 1, "totalMemoryMb": 1, "maxConcurrent": 1,
        "allocatedVcpu": 0, "allocatedMemoryMb": 0, "runningCount": 0,
        "admittableProfiles": ["default"], "heldSessionStates": [], "mode": "running"})
    .to_string()
}

/// The events of one batch, without the run's id.
fn batch(number: usize) -> String {
    let event = |index| {
        let sequence = number * BATCH + index;
        json!({"type": "assistant", "sequenceNumber": sequence, "text": "x".repeat(TEXT)})
    };
    Value::from((0..BATCH).map(event).collect::<Vec<_>>()).to_string()
}

/// A connection of the runner, which is kept.
struct Http(BufReader<TcpStream>);

impl Http {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(socket))
    }

    fn post(&mut self, path: &str, token: &str, body: &str) -> Value {
        self.send(path, token, body);
        self.reply()
    }

    fn send(&mut self, path: &str, token: &str, body: &str) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
             X-Client-Session-Id: {RUNNER}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn reply(&mut self) -> Value {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if let Some(number) = line.strip_prefix("Content-Length: ") {
                length = number.trim().parse().unwrap();
            }
        }
        let mut reply = vec![0; length];
        self.0.read_exact(&mut reply).unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert!(reply.get("error").is_none(), "{reply}");
        reply
    }
}

/// The sample that a share of all are below.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn report(rows: &[(&str, f64, &str)], as_json: bool) {
    if as_json {
        let row = |&(name, value, target): &(&str, f64, &str)| json!({"name": name, "value": value, "target": target});
        return println!("{:#}", Value::from(rows.iter().map(row).collect::<Vec<_>>()));
    }
    for (name, value, target) in rows {
        println!("{name:50} {value:10.2}  {target}");
    }
}
