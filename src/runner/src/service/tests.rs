//! The service with the embedded platform and scripted sandboxes: no root, no VM.

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

use super::admission::Amount;
use super::config::{Config, Local as LocalConfig};
use super::journal::{self, Journal};
use super::source::local::Local;
use super::source::{Found, Kind, Offer};
use super::{Hands, NetworkLog, Service, Source};
use crate::egress::ProxyPool;
use crate::error::Result;

const AGENT: &str = "guest-agent";

/// A service in a state folder, which outlives it.
struct Bench {
    state: tempfile::TempDir,
    config: Config,
}

struct Serving {
    signals: Sender<Signal>,
    thread: JoinHandle<Result<()>>,
}

impl Bench {
    fn new() -> Self {
        let mut config = Config::standard().unwrap();
        config.budget = Amount { vcpus: 8, memory_mib: 8192 };
        config.max_concurrent = 8;
        config.cancel_grace = Duration::from_secs(60);
        config.local = LocalConfig { listen: Vec::new(), guest_port: 8700 };
        Self { state: tempfile::tempdir().unwrap(), config }
    }

    fn start(&self, factory: &Arc<Factory>) -> Serving {
        let source = Local::start(self.state.path(), &self.config.local).unwrap();
        self.start_with(Arc::new(source), factory)
    }

    fn start_with(&self, source: Arc<dyn Source>, factory: &Arc<Factory>) -> Serving {
        let access = source.access().clone();
        let network_log = NetworkLog::start(self.state.path(), access).unwrap();
        let hands = Hands {
            source,
            factory: Arc::clone(factory) as Arc<dyn SandboxFactory>,
            plug: {
                let factory = Arc::clone(factory);
                Arc::new(move |vm| factory.unplug(vm))
            },
            images: Arc::new(|_| Ok(image())),
            journal: Journal::open(self.state.path()).unwrap(),
            gate: ProxyPool::at(self.state.path(), self.state.path()).unwrap(),
            network_log,
        };
        // Taken when it is sent: what a test does after a signal, it does after it is obeyed.
        let (signals, obeyed) = bounded(0);
        let service = Service::new(&self.config, hands, obeyed).unwrap();
        let serve = move || service.serve();
        let thread = std::thread::Builder::new().name("main".into()).spawn(serve).unwrap();
        Serving { signals, thread }
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

impl Serving {
    fn signal(&self, signal: Signal) {
        self.signals.send(signal).unwrap();
    }

    /// Ends all jobs.
    fn hard_stop(self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGTERM);
        self.thread.join().unwrap().unwrap();
    }

    fn leave(self) {
        self.signal(Signal::SIGTERM);
        self.thread.join().unwrap().unwrap();
    }
}

fn offer(run: super::context::RunId) -> Offer {
    Offer {
        run,
        profile: None,
        reuse_key: None,
        found: Found::Polled,
        at: std::time::Instant::now(),
    }
}

fn image() -> Image {
    let path = PathBuf::new;
    Image { kernel: path(), initramfs: path(), rootfs: path(), disk_template: path() }
}

fn prompt(text: &str) -> Submission {
    Submission { prompt: text.into(), ..Submission::default() }
}

/// What the scripted agent leaves behind.
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
fn good() -> Script {
    let act = |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 0, "lastEventSequence": 3}));
    };
    Script::default().on(AGENT, &["working\n"], 0).act(AGENT, act)
}

/// An agent that says when it runs, and runs until it is ended.
fn held(manner: Manner) -> (Arc<Factory>, Receiver<()>) {
    let (tell, begun) = unbounded();
    let act = move |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 143, "error": "ended by signal 15"}));
        tell.send(()).unwrap();
    };
    (Arc::new(Script::default().hold(AGENT, manner).act(AGENT, act).factory()), begun)
}

#[test]
fn a_job_is_claimed_filled_run_and_completed_and_its_vm_goes() {
    let bench = Bench::new();
    let factory = Arc::new(good().factory());
    let serving = bench.start(&factory);
    let mut submission = prompt("do it");
    submission.environment.insert("COLOR".into(), "blue".into());
    submission.secrets.insert("TOKEN".into(), "swordfish".into());

    let job = bench.end(bench.submit(&submission));
    serving.leave();

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
    assert_eq!(bench.records(), 0);
}

#[test]
fn what_keeps_a_job_from_running_is_that_jobs_failure_alone() {
    let bench = Bench::new();
    let factory = Arc::new(Script::default().factory());
    let serving = bench.start(&factory);

    let job = bench.end(bench.submit(&prompt("do it")));
    let other = bench.end(bench.submit(&prompt("do it")));
    serving.leave();

    assert_eq!((job.status, other.status), (Status::Failed, Status::Failed));
    let error = job.error.unwrap();
    assert_eq!(error, "the agent exited with code 127 and reported no outcome: not in the script");
}

#[test]
fn the_agents_own_failure_is_told_as_it_told_it() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let error = "lost events\u{1b}[2J";
        leave_outcome(request, record, &json!({"exitCode": 1, "error": error}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 1).act(AGENT, act).factory());
    let bench = Bench::new();
    let serving = bench.start(&factory);
    let job = bench.end(bench.submit(&prompt("do it")));
    serving.leave();
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(1), Some("lost events [2J")));
}

#[test]
fn a_job_that_had_too_little_memory_is_told_so_where_it_failed() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let code = if variable(request, "VM0_PROMPT").unwrap() == "fail" { 1 } else { 0 };
        leave_outcome(request, record, &json!({"exitCode": code, "error": "the CLI was killed"}));
    };
    let script = Script::default().on(AGENT, &[], 0).starve(AGENT, 2).act(AGENT, act);
    let bench = Bench::new();
    let serving = bench.start(&Arc::new(script.factory()));

    let failed = bench.end(bench.submit(&prompt("fail")));
    let recovered = bench.end(bench.submit(&prompt("go on")));
    serving.leave();

    let error = "the CLI was killed: the VM ran out of memory (1024 MiB) and its kernel killed \
                 2 processes: give it more with `memory_mib`";
    assert_eq!(failed.error.as_deref(), Some(error));
    assert_eq!((recovered.status, recovered.error), (Status::Completed, None));
}

#[test]
fn an_agent_that_cannot_begin_on_a_full_disk_fails_with_the_remedy() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let error = "cannot create settings.json: No space left on device (os error 28)";
        leave_outcome(request, record, &json!({"exitCode": 1, "error": error}));
    };
    let script = Script::default().on(AGENT, &[], 1).act(AGENT, act);
    let bench = Bench::new();
    let serving = bench.start(&Arc::new(script.factory()));
    let job = bench.end(bench.submit(&prompt("do it")));
    serving.leave();
    let error = job.error.unwrap();
    assert!(error.ends_with("28): the disk is full: give it more with `disk`"), "{error}");
}

#[test]
fn the_agent_starts_as_root_and_is_told_whom_to_become_and_how_long_it_may_take() {
    let act = |request: &ExecRequest, record: &mut Record| {
        let told = ["VM0_RUN_AS", "VM0_CANCEL_GRACE_SECS"].map(|name| variable(request, name));
        assert_eq!(told, [Some("user".to_owned()), Some("60".to_owned())]);
        assert_eq!(
            (request.user.as_ref(), variable(request, "HOME")),
            (None, Some("/home/user".into()))
        );
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let bench = Bench::new();
    let serving =
        bench.start(&Arc::new(Script::default().on(AGENT, &[], 0).act(AGENT, act).factory()));
    let job = bench.end(bench.submit(&prompt("do it")));
    serving.leave();
    assert_eq!((job.status, job.error), (Status::Completed, None));
}

#[test]
fn success_is_not_what_the_guest_says_alone() {
    let act = |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 9).act(AGENT, act).factory());
    let bench = Bench::new();
    let serving = bench.start(&factory);
    let job = bench.end(bench.submit(&prompt("do it")));
    serving.leave();
    assert_eq!(job.exit_code, Some(9));
}

#[test]
fn a_panic_in_a_jobs_thread_is_that_jobs_failure_alone() {
    let act = |request: &ExecRequest, record: &mut Record| {
        assert_ne!(variable(request, "VM0_PROMPT").as_deref(), Some("panic"), "as asked");
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 0).act(AGENT, act).factory());
    let bench = Bench::new();
    let serving = bench.start(&factory);

    let bad = bench.end(bench.submit(&prompt("panic")));
    let good = bench.end(bench.submit(&prompt("do it")));
    serving.leave();

    assert_eq!(bad.exit_code, Some(1));
    assert!(bad.error.unwrap().contains("panicked"));
    assert_eq!(good.status, Status::Completed);
    let record = factory.record();
    assert_eq!((record.started, record.ended), (2, 2));
}

#[test]
fn a_cancelled_job_is_asked_to_end() {
    let bench = Bench::new();
    let (factory, begun) = held(Manner::Polite);
    let serving = bench.start(&factory);
    let run = bench.submit(&prompt("wait"));
    begun.recv().unwrap();

    bench.client().cancel(run).unwrap();

    let job = bench.end(run);
    assert_eq!((job.status, job.exit_code), (Status::Cancelled, Some(137)));
    assert_eq!(factory.record().signals, [Signal::SIGTERM as u8]);
    serving.leave();
}

#[test]
fn a_cancelled_job_that_does_not_listen_is_killed() {
    let mut bench = Bench::new();
    bench.config.cancel_grace = Duration::from_millis(20);
    let (factory, begun) = held(Manner::Deaf);
    let serving = bench.start(&factory);
    let run = bench.submit(&prompt("wait"));
    begun.recv().unwrap();

    bench.client().cancel(run).unwrap();

    assert_eq!(bench.end(run).error.as_deref(), Some("the job was cancelled"));
    serving.leave();
}

#[test]
fn a_job_ends_when_its_time_is_up() {
    let mut bench = Bench::new();
    for profile in bench.config.profiles.values_mut() {
        profile.timeout = Duration::from_millis(50);
    }
    let (factory, _begun) = held(Manner::Polite);
    let serving = bench.start(&factory);
    let job = bench.end(bench.submit(&prompt("wait")));
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(124), Some("the job's time was up")));
    serving.leave();
}

#[test]
fn who_drains_takes_no_job_until_it_resumes() {
    let bench = Bench::new();
    let (factory, begun) = held(Manner::Polite);
    let serving = bench.start(&factory);
    let first = bench.submit(&prompt("wait"));
    begun.recv().unwrap();
    serving.signal(Signal::SIGUSR1);
    let second = bench.submit(&prompt("wait"));
    bench.client().cancel(first).unwrap();
    bench.end(first);
    assert_eq!(bench.client().job(&second.to_string()).unwrap().status, Status::Queued);

    serving.signal(Signal::SIGUSR2);

    begun.recv().unwrap();
    bench.client().cancel(second).unwrap();
    bench.end(second);
    serving.leave();
}

#[test]
fn who_leaves_finishes_what_it_has() {
    let bench = Bench::new();
    let (factory, begun) = held(Manner::Polite);
    let serving = bench.start(&factory);
    let run = bench.submit(&prompt("wait"));
    begun.recv().unwrap();
    serving.signal(Signal::SIGTERM);
    bench.client().cancel(run).unwrap();
    assert_eq!(bench.end(run).status, Status::Cancelled);
    serving.thread.join().unwrap().unwrap();
}

#[test]
fn a_second_signal_ends_all_jobs_and_says_so() {
    let bench = Bench::new();
    let (factory, begun) = held(Manner::Deaf);
    let serving = bench.start(&factory);
    let run = bench.submit(&prompt("wait"));
    begun.recv().unwrap();

    serving.signal(Signal::SIGTERM);
    serving.signal(Signal::SIGINT);
    serving.thread.join().unwrap().unwrap();

    let serving = bench.start(&Arc::new(good().factory()));
    let job = bench.end(run);
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(137), Some("runner stopped")));
    assert_eq!(job.attempt, 1);
    serving.leave();
}

/// Has seven jobs run, each until it is cancelled; returns how many had a VM at once at most. A new
/// one is waited for whenever one has ended, so it is also how many there were all the time.
fn most_at_once(bench: &Bench, expected: usize) -> usize {
    let most = Arc::new(AtomicUsize::new(0));
    let (tell, begun) = unbounded();
    let seen = Arc::clone(&most);
    let act = move |request: &ExecRequest, record: &mut Record| {
        leave_outcome(request, record, &json!({"exitCode": 143}));
        seen.fetch_max(record.started - record.ended, SeqCst);
        tell.send(variable(request, "VM0_RUN_ID").unwrap().parse::<RunId>().unwrap()).unwrap();
    };
    let factory = Arc::new(Script::default().hold(AGENT, Manner::Polite).act(AGENT, act).factory());
    let serving = bench.start(&factory);
    let jobs = 7;
    for _ in 0..jobs {
        bench.submit(&prompt("wait"));
    }
    let mut running: VecDeque<_> = (0..expected).map(|_| begun.recv().unwrap()).collect();
    for ended in 1..=jobs {
        let run = running.pop_front().unwrap();
        bench.client().cancel(run).unwrap();
        assert_eq!(bench.end(run).status, Status::Cancelled);
        if ended + expected <= jobs {
            running.push_back(begun.recv().unwrap());
        }
    }
    serving.leave();
    most.load(SeqCst)
}

#[test]
fn as_many_jobs_run_at_once_as_may_and_never_more() {
    let mut bench = Bench::new();
    bench.config.max_concurrent = 3;
    assert_eq!(most_at_once(&bench, 3), 3);
}

#[test]
fn many_jobs_run_within_the_budget() {
    let mut bench = Bench::new();
    // Each takes a processor, and 1024 MiB.
    bench.config.budget = Amount { vcpus: 8, memory_mib: 2500 };
    assert_eq!(most_at_once(&bench, 2), 2);
    bench.config.budget = Amount { vcpus: 4, memory_mib: 8192 };
    assert_eq!(most_at_once(&bench, 4), 4);
}

#[test]
fn a_runner_that_died_after_its_claim_gives_the_job_back() {
    let bench = Bench::new();
    let journal = Journal::open(bench.state.path()).unwrap();
    let runs = {
        // A runner that dies with two jobs, one of whose claims it had not even written down.
        let local = Local::start(bench.state.path(), &bench.config.local).unwrap();
        let run = bench.submit(&prompt("do it"));
        let ours = super::context::RunId::parse(&run.to_string()).unwrap();
        let claim = local.claim(&offer(ours), &journal).unwrap().unwrap();
        let state = journal::State::Claimed { token: claim.token };
        let record =
            journal::Record { run: ours, attempt: claim.attempt, source: Kind::Local, state };
        journal.write(&record).unwrap();
        let other = bench.submit(&prompt("do it"));
        let other_ours = super::context::RunId::parse(&other.to_string()).unwrap();
        local.claim(&offer(other_ours), &journal).unwrap().unwrap();
        local.stop();
        [run, other]
    };

    let serving = bench.start(&Arc::new(good().factory()));

    for run in runs {
        let job = bench.end(run);
        assert_eq!((job.status, job.attempt), (Status::Completed, 2));
    }
    serving.leave();
    assert_eq!(bench.records(), 0);
}

#[test]
fn an_outcome_that_was_not_sent_is_sent_by_the_next_runner() {
    let bench = Bench::new();
    let journal = Journal::open(bench.state.path()).unwrap();
    let local = Local::start(bench.state.path(), &bench.config.local).unwrap();
    let run = bench.submit(&prompt("do it"));
    let ours = super::context::RunId::parse(&run.to_string()).unwrap();
    let claim = local.claim(&offer(ours), &journal).unwrap().unwrap();
    let completion = journal::Completion { exit_code: 7, ..journal::Completion::default() };
    let at_ms = guest_common::epoch_ms();
    let state = journal::State::Ended { token: claim.token, at_ms, completion };
    let record = journal::Record { run: ours, attempt: claim.attempt, source: Kind::Local, state };
    journal.write(&record).unwrap();
    local.stop();
    drop(local);

    let factory = Arc::new(good().factory());
    let serving = bench.start(&factory);

    let job = bench.end(run);
    assert_eq!((job.exit_code, job.attempt), (Some(7), 1));
    serving.leave();
    assert_eq!((bench.records(), factory.record().started), (0, 0));
}

/// Not a test of behaviour: `cargo test --release -p runner -- --ignored --nocapture dispatch`.
#[test]
#[ignore = "a measurement"]
fn dispatch_is_fast() {
    let bench = Bench::new();
    let (tell, begun) = unbounded();
    let act = move |request: &ExecRequest, record: &mut Record| {
        tell.send(std::time::Instant::now()).unwrap();
        leave_outcome(request, record, &json!({"exitCode": 0}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 0).act(AGENT, act).factory());
    let serving = bench.start(&factory);
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let submitted = std::time::Instant::now();
            let run = bench.submit(&prompt("do it"));
            let time = begun.recv().unwrap() - submitted;
            bench.end(run);
            time
        })
        .collect();
    times.sort();
    println!("submitted to agent started: p50 {:?} p99 {:?}", times[100], times[198]);
    serving.leave();
}
