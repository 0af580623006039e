//! The service with the embedded platform and scripted sandboxes, without root and without VMs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::signal::Signal;
use platform::{Client, Job, RunId, Status, Submission};
use sandbox::fake::{Factory, Manner, Record, Script};
use sandbox::{ExecRequest, Image, SandboxFactory};
use serde_json::json;

mod api;
pub(super) mod push;
mod reuse;
mod scripted;

use super::admission::Resources;
use super::config::{Config, Local as LocalConfig};
use super::journal::{self, Journal};
use super::source::local::Local;
use super::source::{DiscoveredJob, Discovery, Source, SourceKind};
use super::{Dependencies, JobSource, Service};
use crate::error::Result;
use egress::ProxyPool;

const AGENT: &str = "guest-agent";

/// A state folder and a configuration, which outlive the services that use them.
struct Fixture {
    state: tempfile::TempDir,
    config: Config,
}

struct RunningService {
    signals: Sender<Signal>,
    thread: JoinHandle<Result<()>>,
}

impl Fixture {
    fn new() -> Self {
        let mut config = Config::default_for_host().unwrap();
        config.budget = Resources { vcpus: 8, memory_mib: 8192 };
        config.max_concurrent = 8;
        config.cancel_grace = Duration::from_secs(60);
        config.local = LocalConfig { listen: Vec::new(), guest_port: 8700 };
        Self { state: tempfile::tempdir().unwrap(), config }
    }

    fn start(&self, factory: &Arc<Factory>) -> RunningService {
        let source =
            Local::start(self.state.path(), &self.config.local, &self.config.group).unwrap();
        self.start_with(Arc::new(source), factory)
    }

    fn start_with(&self, source: Arc<dyn Source>, factory: &Arc<Factory>) -> RunningService {
        let dependencies = Dependencies {
            state_dir: self.state.path().to_owned(),
            source: JobSource(source),
            factory: Arc::clone(factory) as Arc<dyn SandboxFactory>,
            kill_vm: {
                let factory = Arc::clone(factory);
                Arc::new(move |vm| factory.unplug(vm))
            },
            images: Arc::new(|_| Ok(image())),
            proxies: ProxyPool::open(self.state.path(), self.state.path()).unwrap(),
        };
        // Without capacity, a send returns only once the service receives the signal.
        let (signals, signals_rx) = bounded(0);
        let service = Service::new(&self.config, dependencies, signals_rx).unwrap();
        let thread = base::thread::spawn("main", move || service.run()).unwrap();
        RunningService { signals, thread }
    }

    fn client(&self) -> Client {
        Client::new(self.state.path())
    }

    fn submit(&self, submission: &Submission) -> RunId {
        self.client().submit(submission).unwrap().run_id
    }

    fn end(&self, run: RunId) -> Job {
        self.client().wait(run, None).unwrap()
    }

    fn records(&self) -> usize {
        Journal::open(self.state.path()).unwrap().read().unwrap().len()
    }
}

impl RunningService {
    fn signal(&self, signal: Signal) {
        self.signals.send(signal).unwrap();
    }

    /// Kills all jobs and waits for the service's end.
    fn fast_shutdown(self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGTERM);
        self.thread.join().unwrap().unwrap();
    }

    /// Waits for all jobs and for the service's end.
    fn shut_down(self) {
        self.signal(Signal::SIGTERM);
        self.thread.join().unwrap().unwrap();
    }
}

fn offer(run: contract::RunId) -> DiscoveredJob {
    DiscoveredJob {
        run,
        profile: None,
        reuse_key: None,
        discovery: Discovery::Polled,
        discovered_at: std::time::Instant::now(),
    }
}

fn image() -> Image {
    let path = PathBuf::new;
    Image { kernel: path(), initramfs: path(), rootfs: path(), disk_template: path() }
}

fn prompt(text: &str) -> Submission {
    Submission { prompt: text.into(), ..Submission::default() }
}

/// Writes the scripted agent's `outcome.json`.
fn leave_outcome(request: &ExecRequest, record: &mut Record, outcome: &serde_json::Value) {
    let run = variable(request, "VM0_RUN_ID").unwrap();
    let path = format!("/home/user/.vm0/guest-agent/runs/{run}/outcome.json");
    record.files.insert(path.into(), outcome.to_string().into_bytes());
}

fn variable(request: &ExecRequest, name: &str) -> Option<String> {
    let found = request.env.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.to_string_lossy().into_owned())
}

/// An agent that succeeds.
fn successful() -> Script {
    let act = |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 0, "lastEventSequence": 3}));
    };
    Script::default().on(AGENT, &["working\n"], 0).act(AGENT, act)
}

/// An agent that reports its start on the channel and runs until it is killed.
fn waiting(manner: Manner) -> (Arc<Factory>, Receiver<()>) {
    let (started_tx, started) = unbounded();
    let act = move |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 143, "error": "ended by signal 15"}));
        started_tx.send(()).unwrap();
    };
    (Arc::new(Script::default().hold(AGENT, manner).act(AGENT, act).factory()), started)
}

#[test]
fn a_job_is_claimed_run_and_completed_and_its_vm_is_killed() {
    let fixture = Fixture::new();
    let factory = Arc::new(successful().factory());
    let service = fixture.start(&factory);
    let mut submission = prompt("do it");
    submission.environment.insert("COLOR".into(), "blue".into());
    submission.secrets.insert("TOKEN".into(), "swordfish".into());

    let job = fixture.end(fixture.submit(&submission));
    service.shut_down();

    assert_eq!((job.status, job.error), (Status::Completed, None));
    let record = factory.record();
    assert_eq!((record.started, record.ended), (1, 1));
    let agent = &record.execs[0];
    assert_eq!(agent.argv, [AGENT]);
    assert_eq!(variable(agent, "VM0_PROMPT").unwrap(), "do it");
    assert_eq!(variable(agent, "VM0_API_URL").unwrap(), "http://192.168.241.1:8700");
    let environment = &record.files[Path::new("/home/user/.vm0/inbox/environment.json")];
    assert_eq!(environment, br#"{"COLOR":"blue","TOKEN":"swordfish"}"#);
    let entry = |path: &str| record.entries.iter().find(|entry| entry.path == Path::new(path));
    assert_eq!(entry(".vm0/inbox").unwrap().mode, 0o700);
    assert_eq!(entry(".vm0/inbox/environment.json").unwrap().mode, 0o600);
    assert_eq!(fixture.records(), 0);
}

#[test]
fn a_job_that_cannot_run_fails_without_affecting_the_next() {
    let fixture = Fixture::new();
    let factory = Arc::new(Script::default().factory());
    let service = fixture.start(&factory);

    let job = fixture.end(fixture.submit(&prompt("do it")));
    let other = fixture.end(fixture.submit(&prompt("do it")));
    service.shut_down();

    assert_eq!((job.status, other.status), (Status::Failed, Status::Failed));
    let error = job.error.unwrap();
    assert_eq!(error, "the agent exited with code 127 and reported no outcome: not in the script");
}

#[test]
fn the_agents_error_is_reported_without_control_characters() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let error = "lost events\u{1b}[2J";
        leave_outcome(request, record, &json!({"exitCode": 1, "error": error}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 1).act(AGENT, act).factory());
    let fixture = Fixture::new();
    let service = fixture.start(&factory);
    let job = fixture.end(fixture.submit(&prompt("do it")));
    service.shut_down();
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(1), Some("lost events [2J")));
}

#[test]
fn a_job_that_fails_for_lack_of_memory_gets_the_remedy() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let code = if variable(request, "VM0_PROMPT").unwrap() == "fail" { 1 } else { 0 };
        leave_outcome(request, record, &json!({"exitCode": code, "error": "the CLI was killed"}));
    };
    let script = Script::default().on(AGENT, &[], 0).starve(AGENT, 2).act(AGENT, act);
    let fixture = Fixture::new();
    let service = fixture.start(&Arc::new(script.factory()));

    let failed = fixture.end(fixture.submit(&prompt("fail")));
    let recovered = fixture.end(fixture.submit(&prompt("go on")));
    service.shut_down();

    let error = "the CLI was killed: the VM ran out of memory (1024 MiB) and its kernel killed \
                 2 processes: give it more with `memory_mib`";
    assert_eq!(failed.error.as_deref(), Some(error));
    assert_eq!((recovered.status, recovered.error), (Status::Completed, None));
}

#[test]
fn an_agent_that_fails_on_a_full_disk_gets_the_remedy() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let error = "cannot create settings.json: No space left on device (os error 28)";
        leave_outcome(request, record, &json!({"exitCode": 1, "error": error}));
    };
    let script = Script::default().on(AGENT, &[], 1).act(AGENT, act);
    let fixture = Fixture::new();
    let service = fixture.start(&Arc::new(script.factory()));
    let job = fixture.end(fixture.submit(&prompt("do it")));
    service.shut_down();
    let error = job.error.unwrap();
    assert!(error.ends_with("28): the disk is full: give it more with `disk`"), "{error}");
}

#[test]
fn the_agent_starts_as_root_with_its_user_and_grace_period() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let variables = ["VM0_RUN_AS", "VM0_CANCEL_GRACE_SECS"].map(|name| variable(request, name));
        assert_eq!(variables, [Some("user".to_owned()), Some("60".to_owned())]);
        assert_eq!(
            (request.user.as_ref(), variable(request, "HOME")),
            (None, Some("/home/user".into()))
        );
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let fixture = Fixture::new();
    let service =
        fixture.start(&Arc::new(Script::default().on(AGENT, &[], 0).act(AGENT, act).factory()));
    let job = fixture.end(fixture.submit(&prompt("do it")));
    service.shut_down();
    assert_eq!((job.status, job.error), (Status::Completed, None));
}

#[test]
fn a_successful_outcome_with_a_failed_exit_code_is_a_failure() {
    let act = |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 9).act(AGENT, act).factory());
    let fixture = Fixture::new();
    let service = fixture.start(&factory);
    let job = fixture.end(fixture.submit(&prompt("do it")));
    service.shut_down();
    assert_eq!(job.exit_code, Some(9));
}

#[test]
fn a_panic_in_a_jobs_thread_fails_only_that_job() {
    let act = |request: &ExecRequest, record: &mut Record| {
        assert_ne!(variable(request, "VM0_PROMPT").as_deref(), Some("panic"), "as asked");
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 0).act(AGENT, act).factory());
    let fixture = Fixture::new();
    let service = fixture.start(&factory);

    let bad = fixture.end(fixture.submit(&prompt("panic")));
    let good = fixture.end(fixture.submit(&prompt("do it")));
    service.shut_down();

    assert_eq!(bad.exit_code, Some(1));
    assert!(bad.error.unwrap().contains("panicked"));
    assert_eq!(good.status, Status::Completed);
    let record = factory.record();
    assert_eq!((record.started, record.ended), (2, 2));
}

#[test]
fn a_cancelled_jobs_agent_gets_sigterm() {
    let fixture = Fixture::new();
    let (factory, started) = waiting(Manner::Polite);
    let service = fixture.start(&factory);
    let run = fixture.submit(&prompt("wait"));
    started.recv().unwrap();

    fixture.client().cancel(run).unwrap();

    let job = fixture.end(run);
    assert_eq!((job.status, job.exit_code), (Status::Cancelled, Some(137)));
    assert_eq!(factory.record().signals, [Signal::SIGTERM as u8]);
    service.shut_down();
}

#[test]
fn a_cancelled_job_that_ignores_sigterm_is_killed() {
    let mut fixture = Fixture::new();
    fixture.config.cancel_grace = Duration::from_millis(20);
    let (factory, started) = waiting(Manner::Deaf);
    let service = fixture.start(&factory);
    let run = fixture.submit(&prompt("wait"));
    started.recv().unwrap();

    fixture.client().cancel(run).unwrap();

    assert_eq!(fixture.end(run).error.as_deref(), Some("the job was cancelled"));
    service.shut_down();
}

#[test]
fn a_job_that_exceeds_its_time_limit_ends_with_code_124() {
    let mut fixture = Fixture::new();
    for profile in fixture.config.profiles.values_mut() {
        profile.timeout = Duration::from_millis(50);
    }
    let (factory, _started) = waiting(Manner::Polite);
    let service = fixture.start(&factory);
    let job = fixture.end(fixture.submit(&prompt("wait")));
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(124), Some("the job's time was up")));
    service.shut_down();
}

#[test]
fn a_draining_service_takes_no_job_until_it_resumes() {
    let fixture = Fixture::new();
    let (factory, started) = waiting(Manner::Polite);
    let service = fixture.start(&factory);
    let first = fixture.submit(&prompt("wait"));
    started.recv().unwrap();
    service.signal(Signal::SIGUSR1);
    let second = fixture.submit(&prompt("wait"));
    fixture.client().cancel(first).unwrap();
    fixture.end(first);
    assert_eq!(fixture.client().job(&second.to_string()).unwrap().status, Status::Queued);

    service.signal(Signal::SIGUSR2);

    started.recv().unwrap();
    fixture.client().cancel(second).unwrap();
    fixture.end(second);
    service.shut_down();
}

#[test]
fn a_service_that_shuts_down_finishes_its_jobs() {
    let fixture = Fixture::new();
    let (factory, started) = waiting(Manner::Polite);
    let service = fixture.start(&factory);
    let run = fixture.submit(&prompt("wait"));
    started.recv().unwrap();
    service.signal(Signal::SIGTERM);
    fixture.client().cancel(run).unwrap();
    assert_eq!(fixture.end(run).status, Status::Cancelled);
    service.thread.join().unwrap().unwrap();
}

#[test]
fn a_second_signal_kills_all_jobs_and_reports_them() {
    let fixture = Fixture::new();
    let (factory, started) = waiting(Manner::Deaf);
    let service = fixture.start(&factory);
    let run = fixture.submit(&prompt("wait"));
    started.recv().unwrap();

    service.signal(Signal::SIGTERM);
    service.signal(Signal::SIGINT);
    service.thread.join().unwrap().unwrap();

    let service = fixture.start(&Arc::new(successful().factory()));
    let job = fixture.end(run);
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(137), Some("runner stopped")));
    assert_eq!(job.attempt, 1);
    service.shut_down();
}

/// Runs seven jobs, each until it is cancelled. Returns the largest number of VMs at once. Whenever a job ends, it
/// waits for the next to start, so `expected` VMs run all the time.
fn max_concurrency(fixture: &Fixture, expected: usize) -> usize {
    let max = Arc::new(AtomicUsize::new(0));
    let (started_tx, started) = unbounded();
    let seen = Arc::clone(&max);
    let act = move |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 143}));
        seen.fetch_max(record.started - record.ended, SeqCst);
        started_tx
            .send(variable(request, "VM0_RUN_ID").unwrap().parse::<RunId>().unwrap())
            .unwrap();
    };
    let factory = Arc::new(Script::default().hold(AGENT, Manner::Polite).act(AGENT, act).factory());
    let service = fixture.start(&factory);
    let jobs = 7;
    for _ in 0..jobs {
        fixture.submit(&prompt("wait"));
    }
    let mut running: VecDeque<_> = (0..expected).map(|_| started.recv().unwrap()).collect();
    for ended in 1..=jobs {
        let run = running.pop_front().unwrap();
        fixture.client().cancel(run).unwrap();
        assert_eq!(fixture.end(run).status, Status::Cancelled);
        if ended + expected <= jobs {
            running.push_back(started.recv().unwrap());
        }
    }
    service.shut_down();
    max.load(SeqCst)
}

#[test]
fn as_many_jobs_run_at_once_as_configured() {
    let mut fixture = Fixture::new();
    fixture.config.max_concurrent = 3;
    assert_eq!(max_concurrency(&fixture, 3), 3);
}

#[test]
fn jobs_run_within_the_budget_of_cpus_and_memory() {
    let mut fixture = Fixture::new();
    // Each VM has one CPU and 1024 MiB.
    fixture.config.budget = Resources { vcpus: 8, memory_mib: 2500 };
    assert_eq!(max_concurrency(&fixture, 2), 2);
    fixture.config.budget = Resources { vcpus: 4, memory_mib: 8192 };
    assert_eq!(max_concurrency(&fixture, 4), 4);
}

#[test]
fn jobs_of_a_dead_runner_return_to_the_queue() {
    let fixture = Fixture::new();
    let journal = Journal::open(fixture.state.path()).unwrap();
    let runs = {
        // A runner that dies with two jobs, and has written only one claim to the journal.
        let local =
            Local::start(fixture.state.path(), &fixture.config.local, &fixture.config.group)
                .unwrap();
        let run = fixture.submit(&prompt("do it"));
        let run_id = run;
        let claim = local.claim(&offer(run_id), &journal).unwrap().unwrap();
        let state = journal::ClaimState::Claimed { token: claim.token };
        let record = journal::ClaimRecord {
            run: run_id,
            attempt: claim.attempt,
            source: SourceKind::Local,
            state,
        };
        journal.write(&record).unwrap();
        let other = fixture.submit(&prompt("do it"));
        let other_id = other;
        local.claim(&offer(other_id), &journal).unwrap().unwrap();
        local.stop();
        [run, other]
    };

    let service = fixture.start(&Arc::new(successful().factory()));

    for run in runs {
        let job = fixture.end(run);
        assert_eq!((job.status, job.attempt), (Status::Completed, 2));
    }
    service.shut_down();
    assert_eq!(fixture.records(), 0);
}

#[test]
fn an_unsent_outcome_is_sent_after_the_next_start() {
    let fixture = Fixture::new();
    let journal = Journal::open(fixture.state.path()).unwrap();
    let local =
        Local::start(fixture.state.path(), &fixture.config.local, &fixture.config.group).unwrap();
    let run = fixture.submit(&prompt("do it"));
    let run_id = run;
    let claim = local.claim(&offer(run_id), &journal).unwrap().unwrap();
    let completion = contract::Completion { exit_code: 7, ..contract::Completion::default() };
    let at_ms = base::date::epoch_ms();
    let state = journal::ClaimState::Ended { token: claim.token, at_ms, completion };
    let record = journal::ClaimRecord {
        run: run_id,
        attempt: claim.attempt,
        source: SourceKind::Local,
        state,
    };
    journal.write(&record).unwrap();
    local.stop();
    drop(local);

    let factory = Arc::new(successful().factory());
    let service = fixture.start(&factory);

    let job = fixture.end(run);
    assert_eq!((job.exit_code, job.attempt), (Some(7), 1));
    service.shut_down();
    assert_eq!((fixture.records(), factory.record().started), (0, 0));
}
