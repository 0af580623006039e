//! The thread `network-log`: uploads the network logs of jobs, which the proxy writes to files, to the platform.
//!
//! It uploads periodically while a job runs, before the job's outcome is sent, and after its VM has ended. It sleeps
//! in its channel until the next round is due. A batch that fails is retried in a later round. Entries that are
//! not uploaded at a job's end are lost, without effect on the job. A batch that the platform refuses for good is
//! halved until the refused entry is found, which is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use platform_client::{
    ClientType, PlatformClient, PlatformCredentials, RequestCancellation, RequestLimits,
    pause_after,
};
use serde_json::{Value, json};

use super::source::PlatformAccess;
use crate::error::{Error, Result, file};
use contract::RunId;

const THREAD: &str = "network-log";
/// The folder of the logs, below the state folder.
const FOLDER: &str = "network";

/// The interval between uploads.
const INTERVAL: Duration = Duration::from_secs(2);
/// The most entries and bytes of one batch. The whole request stays below the platform's limit of 1 MiB.
const MAX_ENTRIES: usize = 500;
const MAX_BYTES: usize = 900 << 10;
/// The entry types of the contract.
const TYPES: [&str; 5] = ["http", "tcp", "udp", "icmp", "dns"];
/// How long an outcome waits for the upload of the log, which takes less unless the platform is unreachable.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
const LIMITS: RequestLimits = RequestLimits {
    whole: Some(Duration::from_secs(30)),
    silence: Duration::from_secs(10),
    redirects: 0,
};

/// The thread's input.
enum Command {
    Begin {
        run: RunId,
        token: String,
        path: PathBuf,
    },
    /// Upload the entries written so far, then drop the sender.
    Flush {
        run: RunId,
        _done: Sender<()>,
    },
    /// Upload the rest, forget the job, then drop the sender.
    End {
        run: RunId,
        _done: Sender<()>,
    },
}

/// The owner of the thread.
pub(crate) struct NetworkLog {
    commands: Option<Sender<Command>>,
    folder: PathBuf,
    stop: RequestCancellation,
    thread: Option<JoinHandle<()>>,
}

/// The log of one job. Dropping it uploads the rest and removes the file.
pub(crate) struct JobLog<'a> {
    log: &'a NetworkLog,
    run: RunId,
    pub(crate) path: PathBuf,
}

impl NetworkLog {
    /// Starts the thread, and removes the logs of an earlier process, whose jobs have ended.
    pub(crate) fn start(state_dir: &Path, access: PlatformAccess) -> Result<Self> {
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(file("read", &folder))?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let (commands, commands_rx) = unbounded();
        let stop = RequestCancellation::new();
        let worker = Worker { access, stop: stop.clone(), jobs: BTreeMap::new() };
        let thread = base::thread::spawn(THREAD, move || worker.run(&commands_rx));
        let thread = thread.map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok(Self { commands: Some(commands), folder, stop, thread: Some(thread) })
    }

    /// Starts the uploads of a job's log.
    pub(crate) fn open(&self, run: RunId, token: &str) -> JobLog<'_> {
        let path = self.folder.join(format!("{run}.jsonl"));
        let token = token.to_owned();
        self.send(Command::Begin { run, token, path: path.clone() });
        JobLog { log: self, run, path }
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // If the thread has ended, the log is lost.
            let _ = commands.send(command);
        }
    }
}

impl JobLog<'_> {
    /// Uploads the entries written so far, so that they reach the platform before the outcome. Waits 500 ms at
    /// most.
    pub(crate) fn flush(&self) {
        let (done_tx, done) = crossbeam_channel::bounded(0);
        self.log.send(Command::Flush { run: self.run, _done: done_tx });
        let _ = done.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl Drop for NetworkLog {
    fn drop(&mut self) {
        drop(self.commands.take());
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            base::thread::join(thread);
        }
    }
}

impl Drop for JobLog<'_> {
    fn drop(&mut self) {
        let (done_tx, done) = crossbeam_channel::bounded(0);
        self.log.send(Command::End { run: self.run, _done: done_tx });
        let _ = done.recv();
        let _ = fs::remove_file(&self.path);
    }
}

/// The state of the thread.
struct Worker {
    access: PlatformAccess,
    stop: RequestCancellation,
    jobs: BTreeMap<RunId, Job>,
}

struct Job {
    token: String,
    path: PathBuf,
    /// How many bytes of the file were read.
    offset: u64,
    /// Batches that were read and not uploaded yet.
    pending: VecDeque<Vec<Value>>,
    /// The next upload unless the job ends earlier: the platform may ask for a pause.
    due: Instant,
    /// The number of entries that the platform refused for good.
    dropped: usize,
    /// The platform refuses this run's token, so nothing more is sent.
    is_refused: bool,
}

impl Job {
    fn new(token: String, path: PathBuf) -> Self {
        let pending = VecDeque::new();
        Self { token, path, offset: 0, pending, due: Instant::now(), dropped: 0, is_refused: false }
    }
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut due = Instant::now() + INTERVAL;
        loop {
            let command = if self.jobs.is_empty() {
                commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                commands.recv_deadline(due)
            };
            match command {
                Ok(Command::Begin { run, token, path }) => {
                    self.jobs.insert(run, Job::new(token, path));
                }
                Ok(Command::Flush { run, _done }) => {
                    if let Some(mut job) = self.jobs.remove(&run) {
                        self.upload(run, &mut job);
                        self.jobs.insert(run, job);
                    }
                }
                Ok(Command::End { run, _done }) => {
                    if let Some(mut job) = self.jobs.remove(&run) {
                        self.upload(run, &mut job);
                        if job.dropped > 0 {
                            let count = job.dropped;
                            log::warn!(
                                "the platform refused entries of a network log; run={run} count={count}"
                            );
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let mut jobs = std::mem::take(&mut self.jobs);
                    for (run, job) in jobs.iter_mut().filter(|(_, job)| job.due <= Instant::now()) {
                        self.upload(*run, job);
                    }
                    self.jobs = jobs;
                    due = Instant::now() + INTERVAL;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Uploads all entries, until the file ends or an upload fails.
    fn upload(&self, run: RunId, job: &mut Job) {
        while !job.is_refused {
            let Some(entries) = job.pending.pop_front() else {
                match read(job) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(error) => {
                        log::warn!("cannot read a network log; run={run} error={}", error.chain());
                        break;
                    }
                }
            };
            let Err(error) = self.post(run, &job.token, &entries) else { continue };
            let Some(refusal) = error.of_api().filter(|one| one.is_refusal()) else {
                log::debug!(
                    "cannot upload a network log, retrying later; run={run} error={:?}",
                    error.chain()
                );
                job.due = Instant::now() + pause_after(error.of_api(), Duration::ZERO);
                job.pending.push_front(entries);
                return;
            };
            job.is_refused = refusal.refuses_caller();
            if entries.len() > 1 && !job.is_refused {
                let (first, second) = entries.split_at(entries.len() / 2);
                job.pending.push_front(second.to_vec());
                job.pending.push_front(first.to_vec());
                continue;
            }
            // Only the first refusal is logged: a guest could cause any number of them.
            if job.dropped == 0 {
                let error = error.chain();
                log::warn!(
                    "the platform refuses an entry of a network log; run={run} error={error:?}"
                );
            }
            job.dropped += entries.len();
        }
    }

    fn post(&self, run: RunId, token: &str, entries: &[Value]) -> Result<()> {
        let credentials = PlatformCredentials {
            addresses: self.access.addresses.clone(),
            token: token.to_owned(),
            bypass: self.access.bypass.clone(),
            client_session: run.to_string(),
        };
        let platform = PlatformClient::of(ClientType::Runner, &credentials, LIMITS, &self.stop)?;
        let body = json!({"runId": run, "networkLogs": entries}).to_string();
        let _: Value = platform.attempt("/api/webhooks/agent/telemetry", body.as_bytes())?;
        Ok(())
    }
}

/// Reads the next batch of a log. Returns false at its end.
fn read(job: &mut Job) -> Result<bool> {
    let (entries, next) = batch(&job.path, job.offset)?;
    let is_new = next > job.offset;
    job.offset = next;
    if !entries.is_empty() {
        job.pending.push_back(entries);
    }
    Ok(is_new)
}

/// Whether the contract has the entry's type. An entry without a type is an HTTP request.
fn is_known(entry: &Value) -> bool {
    entry["type"].as_str().is_none_or(|kind| TYPES.contains(&kind))
}

/// The next complete lines of a log from an offset on, and the offset of the next batch.
fn batch(path: &Path, from: u64) -> Result<(Vec<Value>, u64)> {
    let failed = || file("read", path);
    let mut record = match File::open(path) {
        // The guest has sent nothing yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((Vec::new(), from));
        }
        opened => opened.map_err(failed())?,
    };
    record.seek(SeekFrom::Start(from)).map_err(failed())?;
    let mut reader = BufReader::new(record);
    let (mut entries, mut line, mut next) = (Vec::new(), String::new(), from);
    let mut bytes = 0;
    while entries.len() < MAX_ENTRIES {
        line.clear();
        let count = reader.read_line(&mut line).map_err(failed())?;
        let is_too_long = count > MAX_BYTES;
        if !line.ends_with('\n') || (!is_too_long && bytes + count > MAX_BYTES) {
            break;
        }
        next += count as u64;
        // An entry larger than a batch is skipped: it would block all later ones.
        if is_too_long {
            log::warn!("an entry of a network log is too large and is dropped; bytes={count}");
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
    fn a_log_is_uploaded_to_its_end_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let server = Server::start(|_| Reply::json(&json!({"success": true, "id": "1"})));
        let access = PlatformAccess::at(&server.url(), &server.url());
        let log = NetworkLog::start(state.path(), access).unwrap();
        let run = "01234567-89ab-4def-8123-456789abcdef".parse::<RunId>().unwrap();
        let job_log = log.open(run, "token");
        let lines: String = (0..1001).map(|n| format!("{{\"port\":{n}}}\n")).collect();
        fs::write(&job_log.path, lines + "{\"half").unwrap();
        let path = job_log.path.clone();

        drop(job_log);

        let requests = server.requests_to("/api/webhooks/agent/telemetry");
        let entries: Vec<_> = requests
            .iter()
            .flat_map(|request| request.json()["networkLogs"].as_array().unwrap().clone())
            .collect();
        assert_eq!((requests.len(), entries.len()), (3, 1001));
        assert_eq!(entries[1000]["port"], 1000);
        assert!(!path.exists());
    }

    /// Uploads entries to a platform with these answers. Returns the entries of each request.
    fn uploaded(
        entries: &[Value],
        answer: impl Fn(&[Value]) -> Reply + Send + Sync + 'static,
    ) -> Vec<Vec<Value>> {
        let state = tempfile::tempdir().unwrap();
        let list = |request: &guest_test::Request| {
            request.json()["networkLogs"].as_array().unwrap().clone()
        };
        let server = Server::start(move |request| answer(&list(request)));
        let access = PlatformAccess::at(&server.url(), &server.url());
        let log = NetworkLog::start(state.path(), access).unwrap();
        let job_log =
            log.open("01234567-89ab-4def-8123-456789abcdef".parse::<RunId>().unwrap(), "token");
        let text: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        fs::write(&job_log.path, text).unwrap();
        job_log.flush();
        drop(job_log);
        server.requests_to("/api/webhooks/agent/telemetry").iter().map(list).collect()
    }

    fn accepted() -> Reply {
        Reply::json(&json!({"success": true, "id": "1"}))
    }

    #[test]
    fn a_refused_entry_is_dropped_and_the_others_are_uploaded() {
        let entries: Vec<_> = (0..10).map(|n| json!({"type": "tcp", "port": n})).collect();
        let bad = |list: &[Value]| list.iter().any(|entry| entry["port"] == 3);
        let requests = uploaded(&entries, move |list| {
            if bad(list) { Reply::refusal(400, "no such port") } else { accepted() }
        });
        let taken = requests.iter().filter(|list| !bad(list)).flatten();
        let ports: Vec<_> = taken.map(|entry| entry["port"].as_u64().unwrap()).collect();
        assert_eq!(ports, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(requests.iter().filter(|list| list.len() == 1 && bad(list)).count(), 1);
    }

    #[test]
    fn entries_of_unknown_types_are_not_uploaded() {
        let entry = |kind: &str| json!({"type": kind, "host": "0.0.0.0", "port": 0});
        let entries = ["other", "udp", "igmp", "dns"].map(entry);
        let requests = uploaded(&entries, |_| accepted());
        assert_eq!(requests, [[entry("udp"), entry("dns")]]);
        let many: Vec<_> =
            std::iter::repeat_n(entry("other"), 2000).chain([entry("tcp")]).collect();
        assert_eq!(uploaded(&many, |_| accepted()), [[entry("tcp")]]);
    }

    #[test]
    fn a_run_whose_token_is_refused_uploads_nothing_more() {
        let entries: Vec<_> = (0..1200).map(|n| json!({"type": "tcp", "port": n})).collect();
        assert_eq!(uploaded(&entries, |_| Reply::refusal(401, "who?")).len(), 1);
    }

    #[test]
    fn a_batch_that_fails_is_uploaded_again_once() {
        let first = std::sync::atomic::AtomicBool::new(true);
        let entries: Vec<_> = (0..3).map(|n| json!({"type": "tcp", "port": n})).collect();
        let requests = uploaded(&entries, move |_| {
            let is_first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            if is_first { Reply::refusal(503, "not now") } else { accepted() }
        });
        assert_eq!(requests, [entries.clone(), entries]);
    }

    #[test]
    fn batches_of_large_entries_stay_below_the_platforms_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.jsonl");
        // Each entry has two bodies of control characters only, which JSON escapes.
        let body = "\u{1}".repeat(16 << 10);
        let long = |n: usize| json!({"port": n, "request_body": body, "response_body": body});
        let mut lines: Vec<_> = (0..20).map(long).collect();
        lines.insert(10, json!({"port": "none", "error": "x".repeat(MAX_BYTES)}));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).unwrap();

        let (mut ports, mut from) = (Vec::new(), 0);
        loop {
            let (entries, next) = batch(&path, from).unwrap();
            if next == from {
                break;
            }
            from = next;
            assert!(json!(entries).to_string().len() <= MAX_BYTES + MAX_ENTRIES);
            ports.extend(entries.iter().map(|entry| entry["port"].as_u64().unwrap()));
        }

        assert!(ports.into_iter().eq(0..20));
    }
}
