//! The embedded platform: how fast it takes events, and how soon a job that was submitted is
//! claimed. See README.md beside this file.
//!
//! With `idle` it serves, and does nothing else until its standard input ends: for strace.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use platform::{Client, Completion, Config, Platform, RunId, Submission, Wanted};
use serde_json::{Value, json};

/// How many events a job sends, how many of them at once, and how long one is.
const EVENTS: usize = 10_000;
const BATCH: usize = 100;
const TEXT: usize = 400;

/// How many jobs are submitted one after the other.
const JOBS: usize = 200;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let folder = tempfile::tempdir().unwrap();
    let platform = start(folder.path());
    if words.iter().any(|word| word == "idle") {
        println!("pid {}", std::process::id());
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let client = Client::new(folder.path());
    let batches: Vec<String> = (0..EVENTS / BATCH).map(batch).collect();
    let rates: Vec<_> = (0..5).map(|_| events(&platform, &client, &batches)).collect();
    let plain: Vec<_> = (0..5).map(|_| append(folder.path(), &batches)).collect();
    let local = submit_to_claim(
        JOBS,
        || client_submit(&client),
        |deadline| local_claim(&platform, deadline),
    );
    let polled = submit_to_claim(JOBS, || client_submit(&client), |_| polled_claim(&platform));
    report(
        &[
            ("events taken over HTTP, 1/s", median(&rates), ">= 5000"),
            ("the same bytes to a file, flushed as often, events/s", median(&plain), ""),
            ("submitted to claimed, in this process, p50 ms", quantile(&local, 0.5), "<= 5"),
            ("submitted to claimed, in this process, p99 ms", quantile(&local, 0.99), ""),
            ("submitted to claimed, over HTTP, p50 ms", quantile(&polled, 0.5), "<= 5"),
            ("submitted to claimed, over HTTP, p99 ms", quantile(&polled, 0.99), ""),
        ],
        words.iter().any(|word| word == "--json"),
    );
    platform.stop().unwrap();
}

fn start(state: &Path) -> Platform {
    let mut config = Config::new(state);
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    Platform::start(config).unwrap()
}

/// The events of one batch, without the run's id.
fn batch(number: usize) -> String {
    let event = |index| {
        let sequence = number * BATCH + index;
        json!({"type": "assistant", "sequenceNumber": sequence, "text": "x".repeat(TEXT)})
    };
    Value::from((0..BATCH).map(event).collect::<Vec<_>>()).to_string()
}

/// Events a second, from the first batch sent to the last one acknowledged.
fn events(platform: &Platform, client: &Client, batches: &[String]) -> f64 {
    let run = client_submit(client);
    let mut http = Http::connect(platform.addresses()[0]);
    let context =
        http.post(&format!("/api/runners/jobs/{run}/claim"), platform.runner_token(), "{}");
    let token = context["sandboxToken"].as_str().unwrap().to_owned();
    let start = Instant::now();
    for events in batches {
        let body = format!("{{\"runId\":\"{run}\",\"events\":{events}}}");
        let received = http.post("/api/webhooks/agent/events", &token, &body);
        assert_eq!(received["received"], BATCH);
    }
    let rate = EVENTS as f64 / start.elapsed().as_secs_f64();
    let body = format!("{{\"runId\":\"{run}\",\"exitCode\":0}}");
    http.post("/api/webhooks/agent/complete", &token, &body);
    assert_eq!(client.job(&run.to_string()).unwrap().events, EVENTS as u64);
    rate
}

/// The least that keeps events: appended to a file, on the disk after each batch.
fn append(folder: &Path, batches: &[String]) -> f64 {
    let mut file = File::create(folder.join("plain")).unwrap();
    let start = Instant::now();
    for events in batches {
        file.write_all(events.as_bytes()).unwrap();
        file.sync_data().unwrap();
    }
    EVENTS as f64 / start.elapsed().as_secs_f64()
}

fn client_submit(client: &Client) -> RunId {
    let submission = Submission { prompt: "say hello".into(), ..Submission::default() };
    client.submit(&submission).unwrap().run_id
}

/// How long each job takes from before its submission until after its claim, in milliseconds.
/// The claimer waits already.
fn submit_to_claim(
    jobs: usize,
    submit: impl Fn() -> RunId,
    claim: impl Fn(Instant) -> Instant + Sync,
) -> Vec<f64> {
    let one = || {
        std::thread::scope(|scope| {
            let (ready_tx, ready) = std::sync::mpsc::channel();
            let claim = &claim;
            let claimer = scope.spawn(move || {
                ready_tx.send(()).unwrap();
                claim(Instant::now() + Duration::from_secs(20))
            });
            ready.recv().unwrap();
            let start = Instant::now();
            submit();
            (claimer.join().unwrap() - start).as_secs_f64() * 1e3
        })
    };
    (0..jobs).map(|_| one()).collect()
}

fn local_claim(platform: &Platform, deadline: Instant) -> Instant {
    let source = platform.source().unwrap();
    let wanted = Wanted { profiles: vec!["default".into()], ..Wanted::default() };
    let offer = source.next(&wanted, deadline).unwrap().unwrap();
    let job = source.claim(offer.run_id).unwrap().unwrap();
    let claimed = Instant::now();
    source.complete(&job, Completion::default()).unwrap();
    claimed
}

/// As a runner in another process: a held poll, then the claim on the same connection.
fn polled_claim(platform: &Platform) -> Instant {
    let mut http = Http::connect(platform.addresses()[0]);
    let token = platform.runner_token();
    let poll = json!({"runnerId": "11111111-2222-4333-8444-555555555555", "group": "a/b",
        "supportedProfiles": ["default"]});
    let offer = http.post("/api/runners/poll", token, &poll.to_string());
    let run = offer["job"]["runId"].as_str().unwrap().to_owned();
    let context = http.post(&format!("/api/runners/jobs/{run}/claim"), token, "{}");
    let claimed = Instant::now();
    let body = json!({"runId": run, "exitCode": 0}).to_string();
    let token = context["sandboxToken"].as_str().unwrap();
    http.post("/api/webhooks/agent/complete", token, &body);
    claimed
}

/// A connection that is kept.
struct Http(BufReader<TcpStream>);

impl Http {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        Self(BufReader::new(socket))
    }

    fn post(&mut self, path: &str, token: &str, body: &str) -> Value {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
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

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
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
        println!("{name:55} {value:10.2}  {target}");
    }
}
