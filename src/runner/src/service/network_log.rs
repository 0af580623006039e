//! The thread `network-log`: tells the platform what jobs send, while they run, before their outcome is
//! told, and once more when their VMs are gone, out of the records that the proxy writes.
//!
//! It sleeps in its channel until the next round is due. What the platform cannot take now is sent again
//! in a later round; what is not told at a job's end is lost, and the job not. A batch that the platform
//! refuses for good is halved until the entry is found that it refuses, which is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use guest_common::{Identity, Kind, Limits, Platform, Stop, pause_after};
use serde_json::{Value, json};

use super::context::RunId;
use super::source::Access;
use crate::error::{Error, Result, file};

const THREAD: &str = "network-log";
/// Below the state folder.
const FOLDER: &str = "network";

/// How often it is told.
const ROUND: Duration = Duration::from_secs(2);
/// The most entries and bytes of one report: with what is around them, less than the platform's 1 MiB.
const ENTRIES: usize = 500;
const BYTES: usize = 900 << 10;
/// The types of entries that the contract has.
const TYPES: [&str; 5] = ["http", "tcp", "udp", "icmp", "dns"];
/// How long an outcome waits until what led to it is told: longer than that takes, unless the platform
/// is away.
const FLUSH: Duration = Duration::from_millis(500);
const LIMITS: Limits =
    Limits { whole: Some(Duration::from_secs(30)), silence: Duration::from_secs(10), redirects: 0 };

/// What is to be done.
enum Request {
    Begin {
        run: RunId,
        token: String,
        path: PathBuf,
    },
    /// The sender is dropped when what there is by now is told.
    Flush {
        run: RunId,
        _done: Sender<()>,
    },
    /// Likewise; nothing comes any more.
    End {
        run: RunId,
        _done: Sender<()>,
    },
}

/// The owner of the thread.
pub(crate) struct NetworkLog {
    requests: Option<Sender<Request>>,
    folder: PathBuf,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

/// A job whose record is told, until this is dropped: then the rest is told, and the record removed.
pub(crate) struct Told<'a> {
    log: &'a NetworkLog,
    run: RunId,
    pub(crate) path: PathBuf,
}

impl NetworkLog {
    /// Records of dead runners are removed: their jobs have ended.
    pub(crate) fn start(state_dir: &Path, access: Access) -> Result<Self> {
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(file("read", &folder))?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let (requests, inbox) = unbounded();
        let stop = Stop::new();
        let desk = Desk { access, stop: stop.clone(), jobs: BTreeMap::new() };
        let thread =
            thread::Builder::new().name(THREAD.to_owned()).spawn(move || desk.work(&inbox));
        let thread = thread.map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok(Self { requests: Some(requests), folder, stop, thread: Some(thread) })
    }

    /// Tells from now on what is in the record of a job.
    pub(crate) fn tell(&self, run: RunId, token: &str) -> Told<'_> {
        let path = self.folder.join(format!("{run}.jsonl"));
        let token = token.to_owned();
        self.ask(Request::Begin { run, token, path: path.clone() });
        Told { log: self, run, path }
    }

    fn ask(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // A thread that is gone tells nothing.
            let _ = requests.send(request);
        }
    }
}

impl Told<'_> {
    /// Tells what there is by now, so that whoever hears of the job's end finds it.
    pub(crate) fn flush(&self) {
        let (done_tx, done) = crossbeam_channel::bounded(0);
        self.log.ask(Request::Flush { run: self.run, _done: done_tx });
        let _ = done.recv_timeout(FLUSH);
    }
}

impl Drop for NetworkLog {
    fn drop(&mut self) {
        drop(self.requests.take());
        self.stop.signal();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a thread panicked: this is a bug; thread={THREAD}");
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let (done_tx, done) = crossbeam_channel::bounded(0);
        self.log.ask(Request::End { run: self.run, _done: done_tx });
        let _ = done.recv();
        let _ = fs::remove_file(&self.path);
    }
}

/// The thread's own.
struct Desk {
    access: Access,
    stop: Stop,
    jobs: BTreeMap<RunId, Job>,
}

struct Job {
    token: String,
    path: PathBuf,
    /// How much of the record was read.
    read: u64,
    /// Batches that were read and not told yet.
    pending: VecDeque<Vec<Value>>,
    /// Not before then, unless the job ends: the platform has asked for time.
    due: Instant,
    /// How many entries the platform has refused for good.
    dropped: usize,
    /// The platform wants nothing of this run any more.
    is_over: bool,
}

impl Job {
    fn new(token: String, path: PathBuf) -> Self {
        let pending = VecDeque::new();
        Self { token, path, read: 0, pending, due: Instant::now(), dropped: 0, is_over: false }
    }
}

impl Desk {
    fn work(mut self, inbox: &Receiver<Request>) {
        let mut due = Instant::now() + ROUND;
        loop {
            let request = match self.jobs.is_empty() {
                true => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => inbox.recv_deadline(due),
            };
            match request {
                Ok(Request::Begin { run, token, path }) => {
                    self.jobs.insert(run, Job::new(token, path));
                }
                Ok(Request::Flush { run, _done }) => {
                    if let Some(mut job) = self.jobs.remove(&run) {
                        self.tell(run, &mut job);
                        self.jobs.insert(run, job);
                    }
                }
                Ok(Request::End { run, _done }) => {
                    if let Some(mut job) = self.jobs.remove(&run) {
                        self.tell(run, &mut job);
                        if job.dropped > 0 {
                            let count = job.dropped;
                            log::warn!(
                                "entries of a network log were dropped; run={run} count={count}"
                            );
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let mut jobs = std::mem::take(&mut self.jobs);
                    for (run, job) in jobs.iter_mut().filter(|(_, job)| job.due <= Instant::now()) {
                        self.tell(*run, job);
                    }
                    self.jobs = jobs;
                    due = Instant::now() + ROUND;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Tells all that there is, as far as the platform takes it.
    fn tell(&self, run: RunId, job: &mut Job) {
        while !job.is_over {
            let Some(entries) = job.pending.pop_front() else {
                match read(job) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(error) => {
                        log::warn!(
                            "cannot read a network record; run={run} error={}",
                            error.chain()
                        );
                        break;
                    }
                }
            };
            let Err(error) = self.post(run, &job.token, &entries) else { continue };
            let Some(refusal) = error.of_api().filter(|one| one.is_refusal()) else {
                log::debug!("a network log waits; run={run} error={:?}", error.chain());
                job.due = Instant::now() + pause_after(error.of_api(), Duration::ZERO);
                job.pending.push_front(entries);
                return;
            };
            job.is_over = refusal.refuses_caller();
            if entries.len() > 1 && !job.is_over {
                let (first, second) = entries.split_at(entries.len() / 2);
                job.pending.push_front(second.to_vec());
                job.pending.push_front(first.to_vec());
                continue;
            }
            // The first one says why; a guest may cause any number of them.
            if job.dropped == 0 {
                let error = error.chain();
                log::warn!(
                    "the platform refuses entries of a network log; run={run} error={error:?}"
                );
            }
            job.dropped += entries.len();
        }
    }

    fn post(&self, run: RunId, token: &str, entries: &[Value]) -> Result<()> {
        let identity = Identity {
            url: self.access.url.clone(),
            token: token.to_owned(),
            bypass: self.access.bypass.clone(),
            run_id: run.to_string(),
        };
        let platform = Platform::of(Kind::Runner, &identity, LIMITS, &self.stop)?;
        let body = json!({"runId": run, "networkLogs": entries}).to_string();
        let _: Value = platform.attempt("/api/webhooks/agent/telemetry", body.as_bytes())?;
        Ok(())
    }
}

/// Reads the next batch of a record; false if there is none.
fn read(job: &mut Job) -> Result<bool> {
    let (entries, next) = batch(&job.path, job.read)?;
    let is_new = next > job.read;
    job.read = next;
    if !entries.is_empty() {
        job.pending.push_back(entries);
    }
    Ok(is_new)
}

/// Whether an entry is of a type that the contract has; without one it is a request.
fn is_known(entry: &Value) -> bool {
    entry["type"].as_str().is_none_or(|kind| TYPES.contains(&kind))
}

/// The next whole lines of a record from a place on, and where the next batch begins.
fn batch(path: &Path, from: u64) -> Result<(Vec<Value>, u64)> {
    let failed = || file("read", path);
    let mut record = match File::open(path) {
        // Nothing has been sent yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((Vec::new(), from));
        }
        opened => opened.map_err(failed())?,
    };
    record.seek(SeekFrom::Start(from)).map_err(failed())?;
    let mut reader = BufReader::new(record);
    let (mut entries, mut line, mut next) = (Vec::new(), String::new(), from);
    let mut bytes = 0;
    while entries.len() < ENTRIES {
        line.clear();
        let count = reader.read_line(&mut line).map_err(failed())?;
        let is_too_long = count > BYTES;
        if !line.ends_with('\n') || (!is_too_long && bytes + count > BYTES) {
            break;
        }
        next += count as u64;
        // One that no batch has room for would keep all that comes after it.
        if is_too_long {
            log::warn!("an entry of a network record is too long to be told; bytes={count}");
            continue;
        }
        bytes += count;
        entries.extend(serde_json::from_str(&line).ok().filter(is_known));
    }
    Ok((entries, next))
}

#[cfg(test)]
mod tests {
    use guest_test::{Reply, Server};

    use super::*;

    #[test]
    fn a_record_is_told_to_its_end_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let server = Server::start(|_| Reply::json(&json!({"success": true, "id": "1"})));
        let access = Access {
            guest_url: server.url(),
            url: server.url(),
            service: None,
            bypass: None,
            reachable: Vec::new(),
        };
        let log = NetworkLog::start(state.path(), access).unwrap();
        let run = RunId::parse("01234567-89ab-4def-8123-456789abcdef").unwrap();
        let told = log.tell(run, "token");
        let lines: String = (0..1001).map(|n| format!("{{\"port\":{n}}}\n")).collect();
        fs::write(&told.path, lines + "{\"half").unwrap();
        let path = told.path.clone();

        drop(told);

        let requests = server.requests_to("/api/webhooks/agent/telemetry");
        let entries: Vec<_> = requests
            .iter()
            .flat_map(|request| request.json()["networkLogs"].as_array().unwrap().clone())
            .collect();
        assert_eq!((requests.len(), entries.len()), (3, 1001));
        assert_eq!(entries[1000]["port"], 1000);
        assert!(!path.exists());
    }

    /// What a platform that answers so is told of these entries, in all its requests.
    fn told(
        entries: &[Value],
        answer: impl Fn(&[Value]) -> Reply + Send + Sync + 'static,
    ) -> Vec<Vec<Value>> {
        let state = tempfile::tempdir().unwrap();
        let list = |request: &guest_test::Request| {
            request.json()["networkLogs"].as_array().unwrap().clone()
        };
        let server = Server::start(move |request| answer(&list(request)));
        let access = Access {
            guest_url: server.url(),
            url: server.url(),
            service: None,
            bypass: None,
            reachable: Vec::new(),
        };
        let log = NetworkLog::start(state.path(), access).unwrap();
        let told = log.tell(RunId::parse("01234567-89ab-4def-8123-456789abcdef").unwrap(), "token");
        let text: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        fs::write(&told.path, text).unwrap();
        told.flush();
        drop(told);
        server.requests_to("/api/webhooks/agent/telemetry").iter().map(list).collect()
    }

    fn accepted() -> Reply {
        Reply::json(&json!({"success": true, "id": "1"}))
    }

    #[test]
    fn an_entry_that_is_refused_for_good_is_dropped_and_holds_up_no_other() {
        let entries: Vec<_> = (0..10).map(|n| json!({"type": "tcp", "port": n})).collect();
        let bad = |list: &[Value]| list.iter().any(|entry| entry["port"] == 3);
        let requests = told(&entries, move |list| match bad(list) {
            true => Reply::refusal(400, "no such port"),
            false => accepted(),
        });
        let taken = requests.iter().filter(|list| !bad(list)).flatten();
        let ports: Vec<_> = taken.map(|entry| entry["port"].as_u64().unwrap()).collect();
        assert_eq!(ports, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(requests.iter().filter(|list| list.len() == 1 && bad(list)).count(), 1);
    }

    #[test]
    fn entries_of_types_that_the_contract_has_not_are_never_sent() {
        let entry = |kind: &str| json!({"type": kind, "host": "0.0.0.0", "port": 0});
        let entries = ["other", "udp", "igmp", "dns"].map(entry);
        let requests = told(&entries, |_| accepted());
        assert_eq!(requests, [[entry("udp"), entry("dns")]]);
        let many: Vec<_> =
            std::iter::repeat_n(entry("other"), 2000).chain([entry("tcp")]).collect();
        assert_eq!(told(&many, |_| accepted()), [[entry("tcp")]]);
    }

    #[test]
    fn a_platform_that_refuses_the_run_is_sent_no_more_of_it() {
        let entries: Vec<_> = (0..1200).map(|n| json!({"type": "tcp", "port": n})).collect();
        assert_eq!(told(&entries, |_| Reply::refusal(401, "who?")).len(), 1);
    }

    #[test]
    fn what_a_platform_cannot_take_now_is_sent_again_and_once() {
        let first = std::sync::atomic::AtomicBool::new(true);
        let entries: Vec<_> = (0..3).map(|n| json!({"type": "tcp", "port": n})).collect();
        let requests = told(&entries, move |_| {
            let is_first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            if is_first { Reply::refusal(503, "not now") } else { accepted() }
        });
        assert_eq!(requests, [entries.clone(), entries]);
    }

    #[test]
    fn batches_of_long_entries_are_no_longer_than_the_platform_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.jsonl");
        // Each of them is as long as two bodies of nothing but escapes.
        let body = "\u{1}".repeat(16 << 10);
        let long = |n: usize| json!({"port": n, "request_body": body, "response_body": body});
        let mut lines: Vec<_> = (0..20).map(long).collect();
        lines.insert(10, json!({"port": "none", "error": "x".repeat(BYTES)}));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).unwrap();

        let (mut ports, mut from) = (Vec::new(), 0);
        loop {
            let (entries, next) = batch(&path, from).unwrap();
            if next == from {
                break;
            }
            from = next;
            assert!(json!(entries).to_string().len() <= BYTES + ENTRIES);
            ports.extend(entries.iter().map(|entry| entry["port"].as_u64().unwrap()));
        }

        assert!(ports.into_iter().eq(0..20));
    }
}
