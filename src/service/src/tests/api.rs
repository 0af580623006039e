//! The service with a remote platform: the embedded one over HTTP, and fake ones with faults.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ably_subscriber::Hosts;
use contract::{Completion, RunId};
use guest_test::{Reply, Server};
use nix::sys::signal::Signal;
use platform::{Platform, Status};
use sandbox::ExecRequest;
use sandbox::fake::{Manner, Record as FakeRecord, Script};
use serde_json::json;

use super::{AGENT, Fixture, offer, prompt, successful, waiting};
use crate::config::Api as Config;
use crate::journal::{ClaimRecord, ClaimState, Journal};
use crate::source::Source as _;
use crate::source::SourceKind;
use crate::source::api::Api;

/// A platform, and the state folder of a runner that takes its jobs.
struct RemotePlatform {
    fixture: Fixture,
    platform: Platform,
    runner: tempfile::TempDir,
}

impl RemotePlatform {
    fn start() -> Self {
        let fixture = Fixture::new();
        let mut config = platform::Config::new(fixture.state.path());
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.stop_grace = std::time::Duration::from_millis(100);
        let platform = Platform::start(config).unwrap();
        Self { fixture, platform, runner: tempfile::tempdir().unwrap() }
    }

    fn source(&self) -> Arc<Api> {
        let url = format!("http://{}", self.platform.addresses()[0]);
        source(&self.runner, &self.fixture, &url, self.platform.runner_token())
    }
}

fn source(runner: &tempfile::TempDir, fixture: &Fixture, url: &str, token: &str) -> Arc<Api> {
    source_with(runner, fixture, url, token, None)
}

pub(super) fn source_with(
    runner: &tempfile::TempDir,
    fixture: &Fixture,
    url: &str,
    token: &str,
    push: Option<Hosts>,
) -> Arc<Api> {
    let token_file = runner.path().join("token");
    fs::write(&token_file, format!("{token}\n")).unwrap();
    let config = Config {
        urls: vec![url.to_owned()],
        ca: None,
        token_file,
        bypass: None,
        push,
        reachable: Vec::new(),
    };
    let config = crate::Config { api: Some(config), ..fixture.config.clone() };
    Arc::new(Api::start(runner.path(), &config).unwrap())
}

#[test]
fn a_job_of_a_remote_platform_is_run_and_the_runner_is_registered_there() {
    let remote = RemotePlatform::start();
    let factory = Arc::new(successful().factory());
    let service = remote.fixture.start_with(remote.source(), &factory);

    let first = remote.fixture.end(remote.fixture.submit(&prompt("do it")));
    let second = remote.fixture.end(remote.fixture.submit(&prompt("do it")));

    assert_eq!([first.status, second.status], [Status::Completed; 2]);
    assert_eq!((first.attempt, second.attempt), (1, 1));
    let runners = remote.fixture.client().runners().unwrap();
    assert_eq!(runners[0].generation, 1);
    service.shut_down();
    assert_eq!(factory.record().started, 2);
}

#[test]
fn many_jobs_of_a_remote_platform_are_run() {
    let remote = RemotePlatform::start();
    let factory = Arc::new(successful().factory());
    let service = remote.fixture.start_with(remote.source(), &factory);

    let runs: Vec<_> = (0..20).map(|_| remote.fixture.submit(&prompt("do it"))).collect();
    let ends = runs.iter().map(|run| remote.fixture.end(*run).status);

    assert_eq!(ends.collect::<Vec<_>>(), [Status::Completed; 20]);
    service.shut_down();
    assert_eq!(factory.record().started, runs.len());
}

#[test]
fn the_next_poll_waits_for_the_decision_on_the_previous_offer() {
    // An earlier poll got the same offer again, and its job was then ignored for seconds.
    let runs = [1, 2, 3].map(|n| format!("01234567-89ab-4def-8123-00000000000{n}"));
    let offers = Mutex::new(runs.clone().into_iter());
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => match offers.lock().unwrap().next() {
            Some(run) => Reply::json(&json!({"job": {"runId": run}})),
            None => Reply::mute(),
        },
        target if target.ends_with("/claim") => Reply::refusal(409, "another runner has it"),
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));

    let is_poll = |request: &guest_test::Request| request.target() == "/api/runners/poll";
    server.wait_for(|requests| requests.iter().filter(|request| is_poll(request)).count() == 4);
    service.shut_down();

    let polls = server.requests_to("/api/runners/poll");
    let excluded = |n: usize| polls[n].json()["excludedRunIds"].to_string();
    assert!(runs.iter().zip(1..).all(|(run, n)| excluded(n).contains(run)), "{}", excluded(3));
}

#[test]
fn a_cancellation_reaches_a_runner_of_a_remote_platform() {
    let remote = RemotePlatform::start();
    let (factory, started) = waiting(Manner::Polite);
    let service = remote.fixture.start_with(remote.source(), &factory);
    let run = remote.fixture.submit(&prompt("wait"));
    started.recv().unwrap();
    remote.fixture.client().cancel(run).unwrap();
    assert_eq!(remote.fixture.end(run).status, Status::Cancelled);
    service.shut_down();
}

/// Leaves a claim as `of` does for a runner that dies. Returns the job as the next runner completes it.
fn after_death(of: impl FnOnce(&Api, &Journal, RunId) -> Option<ClaimRecord>) -> platform::Job {
    let remote = RemotePlatform::start();
    let run = remote.fixture.submit(&prompt("do it"));
    let run_id = run;
    let journal = Journal::open(remote.fixture.state.path()).unwrap();
    let source = remote.source();
    let record = of(&source, &journal, run_id);
    source.stop();
    record.into_iter().for_each(|record| journal.write(&record).unwrap());

    let service = remote.fixture.start_with(remote.source(), &Arc::new(successful().factory()));
    let job = remote.fixture.end(run);
    service.shut_down();
    assert_eq!(remote.fixture.records(), 0);
    job
}

#[test]
fn a_claimed_job_whose_runner_died_fails() {
    let job = after_death(|source, journal, run| {
        let claim = source.claim(&offer(run), journal).unwrap().unwrap();
        let state = ClaimState::Claimed { token: claim.token };
        Some(ClaimRecord { run, attempt: None, source: SourceKind::Api, state })
    });
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(1), Some("the runner died")));
}

#[test]
fn a_job_whose_claim_had_no_answer_when_its_runner_died_is_run_after_the_next_start() {
    // The record in the journal is that of a claim without an answer.
    let job = after_death(|source, journal, run| {
        source.claim(&offer(run), journal).unwrap().unwrap();
        None
    });
    assert_eq!((job.status, job.attempt, job.error), (Status::Completed, 1, None));
}

#[test]
fn a_fast_shutdown_reports_the_last_acknowledged_event() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => Reply::json(&json!({"job": {"runId": run}})),
        target if target.ends_with("/claim") => Reply::json(&json!({
            "runId": run, "sandboxToken": "t", "prompt": "x", "cliAgentType": "claude-code",
        })),
        _ => Reply::json(&json!({"success": true})),
    });
    let (started_tx, started) = crossbeam_channel::unbounded();
    let act = move |_: &ExecRequest, record: &mut FakeRecord| {
        let path = format!("/home/user/.vm0/guest-agent/runs/{run}/acknowledged");
        record.files.insert(path.into(), format!("{:020}\n", 41).into_bytes());
        started_tx.send(()).unwrap();
    };
    let script = Script::default().hold(AGENT, Manner::Deaf).act(AGENT, act);
    let factory = Arc::new(script.factory());
    let fixture = Fixture::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &factory);
    started.recv().unwrap();

    service.fast_shutdown();

    let completions = server.requests_to("/api/webhooks/agent/complete")[0].json();
    assert_eq!(
        (&completions["exitCode"], &completions["error"]),
        (&json!(137), &json!("runner stopped"))
    );
    assert_eq!(completions["lastEventSequence"], 41);
    assert_eq!(factory.record().signals, [Signal::SIGKILL as u8]);
}

#[test]
fn an_outcome_is_sent_again_until_the_platform_accepts_it() {
    let replies = Mutex::new(vec![
        Reply::json(&json!({"success": true, "status": "failed"})),
        Reply::refusal(503, "in a moment").with("retry-after", "0"),
        Reply::dropped(),
    ]);
    let server = Server::start(move |request| match request.target() {
        "/api/webhooks/agent/complete" => replies.lock().unwrap().pop().unwrap(),
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let journal = Journal::open(fixture.state.path()).unwrap();
    let run = "01234567-89ab-4def-8123-456789abcdef".parse::<RunId>().unwrap();
    let completion = Completion { exit_code: 7, ..Completion::default() };
    let state = ClaimState::Ended { token: "t".into(), at_ms: base::date::epoch_ms(), completion };
    let record = ClaimRecord { run, attempt: None, source: SourceKind::Api, state };
    journal.write(&record).unwrap();
    let runner = tempfile::tempdir().unwrap();

    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));
    let is_completion = |request: &guest_test::Request| request.target().ends_with("/complete");
    server
        .wait_for(|requests| requests.iter().filter(|request| is_completion(request)).count() == 3);
    service.shut_down();

    assert_eq!(fixture.records(), 0);
    let completions = server.requests_to("/api/webhooks/agent/complete");
    assert_eq!(completions.len(), 3);
    assert_eq!(completions[2].json()["exitCode"], 7);
    assert_eq!(completions[2].header("authorization"), Some("Bearer t"));
    assert_eq!(completions[2].header("x-client-type"), Some("runner"));
}

#[test]
fn an_outcome_that_is_refused_for_good_is_removed() {
    let server = Server::start(|_| Reply::refusal(409, "superseded"));
    let fixture = Fixture::new();
    let journal = Journal::open(fixture.state.path()).unwrap();
    let run = "01234567-89ab-4def-8123-456789abcdef".parse::<RunId>().unwrap();
    let completion = Completion::failed("x".into());
    let state = ClaimState::Ended { token: "t".into(), at_ms: base::date::epoch_ms(), completion };
    journal.write(&ClaimRecord { run, attempt: None, source: SourceKind::Api, state }).unwrap();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));
    service.signal(Signal::SIGTERM);
    service.thread.join().unwrap().unwrap();
    assert_eq!(fixture.records(), 0);
}

#[test]
fn a_claimed_job_with_an_invalid_context_is_completed_as_failed() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let polls = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" if polls.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::json(&json!({"job": {"runId": run}}))
        }
        // A context without a prompt is invalid.
        target if target.ends_with("/claim") => {
            Reply::json(&json!({"runId": run, "sandboxToken": "t"}))
        }
        target if target.ends_with("/complete") => Reply::json(&json!({"success": true})),
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let runner = tempfile::tempdir().unwrap();
    let factory = Arc::new(successful().factory());
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &factory);

    server.wait_for(|requests| requests.iter().any(|one| one.target().ends_with("/complete")));
    service.shut_down();

    let completions = server.requests_to("/api/webhooks/agent/complete")[0].json();
    assert_eq!(completions["exitCode"], 1);
    assert!(completions["error"].as_str().unwrap().contains("malformed"), "{completions}");
    assert_eq!((fixture.records(), factory.record().started), (0, 0));
    let claims = server.requests_to(&format!("/api/runners/jobs/{run}/claim"));
    assert_eq!(claims[0].header("authorization"), Some("Bearer runner's"));
    let session = claims[0].header("x-client-session-id").unwrap();
    assert_eq!(server.requests_to("/api/runners/poll")[0].json()["runnerId"], session);
}

#[test]
fn a_fast_shutdown_leaves_an_unanswered_claim_to_the_next_start() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => Reply::json(&json!({"job": {"runId": run}})),
        target if target.ends_with("/claim") => Reply::mute(),
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));
    server.wait_for(|requests| requests.iter().any(|one| one.target().ends_with("/claim")));

    service.signal(Signal::SIGTERM);
    service.signal(Signal::SIGTERM);
    service.thread.join().unwrap().unwrap();

    let records = Journal::open(fixture.state.path()).unwrap().read().unwrap();
    assert!(matches!(records[0].state, ClaimState::Claiming { .. }));
}

#[test]
fn an_unanswered_claim_is_retried_with_the_same_id_while_the_service_runs() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let claims = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.target() {
        target if target.ends_with("/claim") => match claims.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::refusal(429, "in a moment").with("retry-after", "0"),
            1 => Reply::dropped(),
            _ => Reply::json(&json!({
                "runId": run, "sandboxToken": "t", "prompt": "x", "cliAgentType": "claude-code",
            })),
        },
        target if target.ends_with("/complete") => Reply::json(&json!({"success": true})),
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let journal = Journal::open(fixture.state.path()).unwrap();
    let request = "01234567-89ab-4def-8123-000000000000".to_owned();
    let state = ClaimState::Claiming { request, profile: None };
    let run = run.parse::<RunId>().unwrap();
    journal.write(&ClaimRecord { run, attempt: None, source: SourceKind::Api, state }).unwrap();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let factory = Arc::new(successful().factory());
    let service = fixture.start_with(source, &factory);

    server.wait_for(|requests| requests.iter().any(|one| one.target().ends_with("/complete")));
    service.shut_down();

    assert_eq!((fixture.records(), factory.record().started), (0, 1));
    let completions = server.requests_to("/api/webhooks/agent/complete");
    assert_eq!((completions.len(), completions[0].json()["exitCode"].as_u64()), (1, Some(0)));
    let claims = server.requests_to(&format!("/api/runners/jobs/{run}/claim"));
    let id = |request: &guest_test::Request| {
        request.header("x-client-request-id").unwrap_or_default().to_owned()
    };
    assert!(claims.iter().all(|claim| id(claim) == "01234567-89ab-4def-8123-000000000000"));
}

#[test]
fn the_last_heartbeat_reports_that_the_runner_stops() {
    let server = Server::start(|_| Reply::json(&json!({})));
    let fixture = Fixture::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));
    let is_heartbeat = |one: &guest_test::Request| one.target() == "/api/runners/heartbeat";
    server.wait_for(|requests| requests.iter().any(is_heartbeat));

    service.shut_down();

    let heartbeats = server.requests_to("/api/runners/heartbeat");
    let [first, .., last] = &heartbeats[..] else { panic!("only one heartbeat") };
    assert_eq!(first.json()["mode"], "running");
    assert_eq!(
        (&last.json()["mode"], &last.json()["runningCount"]),
        (&json!("stopping"), &json!(0))
    );
    assert_eq!(last.json()["admittableProfiles"], json!([]));
}

#[test]
fn an_unreachable_platform_does_not_delay_a_shutdown() {
    let answers = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.target() {
        "/api/runners/heartbeat" if answers.fetch_add(1, Ordering::SeqCst) > 0 => {
            Reply::refusal(503, "in a while").with("retry-after", "3600")
        }
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));
    service.signal(Signal::SIGUSR1);
    let is_draining = |one: &guest_test::Request| {
        one.target() == "/api/runners/heartbeat" && one.json()["mode"] == "draining"
    };
    server.wait_for(|requests| requests.iter().any(is_draining));

    service.shut_down();

    let last = server.requests_to("/api/runners/heartbeat").pop().unwrap();
    assert_eq!(last.json()["mode"], "stopping");
}

#[test]
fn an_outcome_that_is_not_confirmed_is_sent_again() {
    let replies = Mutex::new(vec![
        Reply::json(&json!({"success": true})),
        Reply::json(&json!({"success": false})),
        Reply::bytes("<html>Please log in</html>"),
    ]);
    let server = Server::start(move |request| match request.target() {
        "/api/webhooks/agent/complete" => replies.lock().unwrap().pop().unwrap(),
        _ => Reply::json(&json!({})),
    });
    let fixture = Fixture::new();
    let journal = Journal::open(fixture.state.path()).unwrap();
    let run = "01234567-89ab-4def-8123-456789abcdef".parse::<RunId>().unwrap();
    let completion = Completion { exit_code: 7, ..Completion::default() };
    let state = ClaimState::Ended { token: "t".into(), at_ms: base::date::epoch_ms(), completion };
    journal.write(&ClaimRecord { run, attempt: None, source: SourceKind::Api, state }).unwrap();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &fixture, &server.url(), "runner's");
    let service = fixture.start_with(source, &Arc::new(successful().factory()));
    // It is also sent again during the shutdown.
    service.shut_down();
    assert_eq!(server.requests_to("/api/webhooks/agent/complete").len(), 3);
    assert_eq!(fixture.records(), 0);
}
