//! The service with a platform elsewhere: the embedded one, over HTTP; and one with faults.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ably_subscriber::Hosts;
use guest_test::{Reply, Server};
use nix::sys::signal::Signal;
use platform::{Platform, Status};
use sandbox::ExecRequest;
use sandbox::fake::{Manner, Record as FakeRecord, Script};
use serde_json::json;

use super::{AGENT, Bench, good, held, offer, prompt};
use crate::service::Source as _;
use crate::service::config::Api as Config;
use crate::service::context::RunId;
use crate::service::journal::{Completion, Journal, Record, State};
use crate::service::source::Kind;
use crate::service::source::api::Api;

/// A platform, and the state folder of a runner that takes its jobs.
struct Elsewhere {
    bench: Bench,
    platform: Platform,
    runner: tempfile::TempDir,
}

impl Elsewhere {
    fn start() -> Self {
        let bench = Bench::new();
        let mut config = platform::Config::new(bench.state.path());
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.stop_grace = std::time::Duration::from_millis(100);
        let platform = Platform::start(config).unwrap();
        Self { bench, platform, runner: tempfile::tempdir().unwrap() }
    }

    fn source(&self) -> Arc<Api> {
        let url = format!("http://{}", self.platform.addresses()[0]);
        source(&self.runner, &self.bench, &url, self.platform.runner_token())
    }
}

fn source(runner: &tempfile::TempDir, bench: &Bench, url: &str, token: &str) -> Arc<Api> {
    source_with(runner, bench, url, token, None)
}

pub(super) fn source_with(
    runner: &tempfile::TempDir,
    bench: &Bench,
    url: &str,
    token: &str,
    push: Option<Hosts>,
) -> Arc<Api> {
    let token_file = runner.path().join("token");
    fs::write(&token_file, format!("{token}\n")).unwrap();
    let config =
        Config { url: url.to_owned(), token_file, bypass: None, push, reachable: Vec::new() };
    Arc::new(Api::start(runner.path(), &bench.config, &config).unwrap())
}

#[test]
fn a_job_of_a_platform_elsewhere_is_done_and_the_runner_is_known_there() {
    let there = Elsewhere::start();
    let factory = Arc::new(good().factory());
    let serving = there.bench.start_with(there.source(), &factory);

    let first = there.bench.end(there.bench.submit(&prompt("do it")));
    let second = there.bench.end(there.bench.submit(&prompt("do it")));

    assert_eq!([first.status, second.status], [Status::Completed; 2]);
    assert_eq!((first.attempt, second.attempt), (1, 1));
    let runners = there.bench.client().runners().unwrap();
    assert_eq!(runners[0].generation, 1);
    serving.leave();
    assert_eq!(factory.record().started, 2);
}

#[test]
fn many_jobs_of_a_platform_elsewhere_are_all_done() {
    let there = Elsewhere::start();
    let factory = Arc::new(good().factory());
    let serving = there.bench.start_with(there.source(), &factory);

    let runs: Vec<_> = (0..20).map(|_| there.bench.submit(&prompt("do it"))).collect();
    let ends = runs.iter().map(|run| there.bench.end(*run).status);

    assert_eq!(ends.collect::<Vec<_>>(), [Status::Completed; 20]);
    serving.leave();
    assert_eq!(factory.record().started, runs.len());
}

#[test]
fn a_platform_elsewhere_is_asked_again_when_its_offer_is_decided_and_not_before() {
    // One that was asked before made the same offer again, and was then let be for seconds.
    let runs = [1, 2, 3].map(|n| format!("01234567-89ab-4def-8123-00000000000{n}"));
    let offers = Mutex::new(runs.clone().into_iter());
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => match offers.lock().unwrap().next() {
            Some(run) => Reply::json(&json!({"job": {"runId": run}})),
            None => Reply::mute(),
        },
        target if target.ends_with("/claim") => Reply::refusal(409, "somebody else has it"),
        _ => Reply::json(&json!({})),
    });
    let bench = Bench::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));

    let is_poll = |request: &guest_test::Request| request.target() == "/api/runners/poll";
    server.wait_for(|requests| requests.iter().filter(|request| is_poll(request)).count() == 4);
    serving.leave();

    let polls = server.requests_to("/api/runners/poll");
    let excluded = |n: usize| polls[n].json()["excludedRunIds"].to_string();
    assert!(runs.iter().zip(1..).all(|(run, n)| excluded(n).contains(run)), "{}", excluded(3));
}

#[test]
fn a_cancellation_reaches_a_runner_elsewhere() {
    let there = Elsewhere::start();
    let (factory, begun) = held(Manner::Polite);
    let serving = there.bench.start_with(there.source(), &factory);
    let run = there.bench.submit(&prompt("wait"));
    begun.recv().unwrap();
    there.bench.client().cancel(run).unwrap();
    assert_eq!(there.bench.end(run).status, Status::Cancelled);
    serving.leave();
}

/// What a runner that died left of a claim, and the job as the next runner leaves it.
fn after_death(of: impl FnOnce(&Api, &Journal, RunId) -> Option<Record>) -> platform::Job {
    let there = Elsewhere::start();
    let run = there.bench.submit(&prompt("do it"));
    let ours = RunId::parse(&run.to_string()).unwrap();
    let journal = Journal::open(there.bench.state.path()).unwrap();
    let source = there.source();
    let record = of(&source, &journal, ours);
    source.stop();
    record.into_iter().for_each(|record| journal.write(&record).unwrap());

    let serving = there.bench.start_with(there.source(), &Arc::new(good().factory()));
    let job = there.bench.end(run);
    serving.leave();
    assert_eq!(there.bench.records(), 0);
    job
}

#[test]
fn a_job_whose_runner_died_has_failed() {
    let job = after_death(|source, journal, run| {
        let claim = source.claim(&offer(run), journal).unwrap().unwrap();
        let state = State::Claimed { token: claim.token };
        Some(Record { run, attempt: None, source: Kind::Api, state })
    });
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(1), Some("the runner died")));
}

#[test]
fn a_job_whose_claim_had_no_answer_when_its_runner_died_is_run_by_the_next() {
    // The claim leaves its record as it was before the answer.
    let job = after_death(|source, journal, run| {
        source.claim(&offer(run), journal).unwrap().unwrap();
        None
    });
    assert_eq!((job.status, job.attempt, job.error), (Status::Completed, 1, None));
}

#[test]
fn a_hard_stop_tells_the_last_event_that_the_guest_left_as_acknowledged() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => Reply::json(&json!({"job": {"runId": run}})),
        target if target.ends_with("/claim") => Reply::json(&json!({
            "runId": run, "sandboxToken": "t", "prompt": "x", "cliAgentType": "claude-code",
        })),
        _ => Reply::json(&json!({"success": true})),
    });
    let (tell, begun) = crossbeam_channel::unbounded();
    let act = move |_: &ExecRequest, record: &mut FakeRecord| {
        let path = format!("/home/user/.vm0/guest-agent/runs/{run}/acknowledged");
        record.files.insert(path.into(), format!("{:020}\n", 41).into_bytes());
        tell.send(()).unwrap();
    };
    let script = Script::default().hold(AGENT, Manner::Deaf).act(AGENT, act);
    let factory = Arc::new(script.factory());
    let bench = Bench::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &factory);
    begun.recv().unwrap();

    serving.hard_stop();

    let told = server.requests_to("/api/webhooks/agent/complete")[0].json();
    assert_eq!((&told["exitCode"], &told["error"]), (&json!(137), &json!("runner stopped")));
    assert_eq!(told["lastEventSequence"], 41);
    assert_eq!(factory.record().signals, [Signal::SIGKILL as u8]);
}

#[test]
fn an_outcome_is_told_again_until_the_platform_takes_it() {
    let replies = Mutex::new(vec![
        Reply::json(&json!({"success": true, "status": "failed"})),
        Reply::refusal(503, "in a moment").with("retry-after", "0"),
        Reply::dropped(),
    ]);
    let server = Server::start(move |request| match request.target() {
        "/api/webhooks/agent/complete" => replies.lock().unwrap().pop().unwrap(),
        _ => Reply::json(&json!({})),
    });
    let bench = Bench::new();
    let journal = Journal::open(bench.state.path()).unwrap();
    let run = RunId::parse("01234567-89ab-4def-8123-456789abcdef").unwrap();
    let completion = Completion { exit_code: 7, ..Completion::default() };
    let state = State::Ended { token: "t".into(), at_ms: guest_common::epoch_ms(), completion };
    let record = Record { run, attempt: None, source: Kind::Api, state };
    journal.write(&record).unwrap();
    let runner = tempfile::tempdir().unwrap();

    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));
    let is_told = |request: &guest_test::Request| request.target().ends_with("/complete");
    server.wait_for(|requests| requests.iter().filter(|request| is_told(request)).count() == 3);
    serving.leave();

    assert_eq!(bench.records(), 0);
    let told = server.requests_to("/api/webhooks/agent/complete");
    assert_eq!(told.len(), 3);
    assert_eq!(told[2].json()["exitCode"], 7);
    assert_eq!(told[2].header("authorization"), Some("Bearer t"));
    assert_eq!(told[2].header("x-client-type"), Some("runner"));
}

#[test]
fn an_outcome_that_is_refused_for_good_is_done_with() {
    let server = Server::start(|_| Reply::refusal(409, "superseded"));
    let bench = Bench::new();
    let journal = Journal::open(bench.state.path()).unwrap();
    let run = RunId::parse("01234567-89ab-4def-8123-456789abcdef").unwrap();
    let completion = Completion::failed("x".into());
    let state = State::Ended { token: "t".into(), at_ms: guest_common::epoch_ms(), completion };
    journal.write(&Record { run, attempt: None, source: Kind::Api, state }).unwrap();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));
    serving.signal(Signal::SIGTERM);
    serving.thread.join().unwrap().unwrap();
    assert_eq!(bench.records(), 0);
}

#[test]
fn a_claim_that_makes_no_sense_comes_to_its_end_too() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let polls = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" if polls.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::json(&json!({"job": {"runId": run}}))
        }
        // Without a prompt there is nothing to be done.
        target if target.ends_with("/claim") => {
            Reply::json(&json!({"runId": run, "sandboxToken": "t"}))
        }
        target if target.ends_with("/complete") => Reply::json(&json!({"success": true})),
        _ => Reply::json(&json!({})),
    });
    let bench = Bench::new();
    let runner = tempfile::tempdir().unwrap();
    let factory = Arc::new(good().factory());
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &factory);

    server.wait_for(|requests| requests.iter().any(|one| one.target().ends_with("/complete")));
    serving.leave();

    let told = server.requests_to("/api/webhooks/agent/complete")[0].json();
    assert_eq!(told["exitCode"], 1);
    assert!(told["error"].as_str().unwrap().contains("malformed"), "{told}");
    assert_eq!((bench.records(), factory.record().started), (0, 0));
    let claims = server.requests_to(&format!("/api/runners/jobs/{run}/claim"));
    assert_eq!(claims[0].header("authorization"), Some("Bearer runner's"));
    let session = claims[0].header("x-client-session-id").unwrap();
    assert_eq!(server.requests_to("/api/runners/poll")[0].json()["runnerId"], session);
}

#[test]
fn a_claim_without_an_answer_is_given_up_by_who_stops_and_asked_for_by_the_next() {
    let run = "01234567-89ab-4def-8123-456789abcdef";
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => Reply::json(&json!({"job": {"runId": run}})),
        target if target.ends_with("/claim") => Reply::mute(),
        _ => Reply::json(&json!({})),
    });
    let bench = Bench::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));
    server.wait_for(|requests| requests.iter().any(|one| one.target().ends_with("/claim")));

    serving.signal(Signal::SIGTERM);
    serving.signal(Signal::SIGTERM);
    serving.thread.join().unwrap().unwrap();

    let records = Journal::open(bench.state.path()).unwrap().read().unwrap();
    assert!(matches!(records[0].state, State::Claiming { .. }));
}

#[test]
fn a_claim_that_nobody_answers_is_made_again_as_the_same_while_the_service_runs() {
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
    let bench = Bench::new();
    let journal = Journal::open(bench.state.path()).unwrap();
    let request = "01234567-89ab-4def-8123-000000000000".to_owned();
    let state = State::Claiming { request, profile: None };
    let run = RunId::parse(run).unwrap();
    journal.write(&Record { run, attempt: None, source: Kind::Api, state }).unwrap();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let factory = Arc::new(good().factory());
    let serving = bench.start_with(source, &factory);

    server.wait_for(|requests| requests.iter().any(|one| one.target().ends_with("/complete")));
    serving.leave();

    assert_eq!((bench.records(), factory.record().started), (0, 1));
    let told = server.requests_to("/api/webhooks/agent/complete");
    assert_eq!((told.len(), told[0].json()["exitCode"].as_u64()), (1, Some(0)));
    let claims = server.requests_to(&format!("/api/runners/jobs/{run}/claim"));
    let id = |request: &guest_test::Request| {
        request.header("x-client-request-id").unwrap_or_default().to_owned()
    };
    assert!(claims.iter().all(|claim| id(claim) == "01234567-89ab-4def-8123-000000000000"));
}

#[test]
fn a_runner_that_leaves_says_so_in_its_last_heartbeat() {
    let server = Server::start(|_| Reply::json(&json!({})));
    let bench = Bench::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));
    let is_heartbeat = |one: &guest_test::Request| one.target() == "/api/runners/heartbeat";
    server.wait_for(|requests| requests.iter().any(is_heartbeat));

    serving.leave();

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
fn a_platform_that_is_away_keeps_no_runner_from_leaving() {
    let answers = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.target() {
        "/api/runners/heartbeat" if answers.fetch_add(1, Ordering::SeqCst) > 0 => {
            Reply::refusal(503, "in a while").with("retry-after", "3600")
        }
        _ => Reply::json(&json!({})),
    });
    let bench = Bench::new();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));
    serving.signal(Signal::SIGUSR1);
    let is_draining = |one: &guest_test::Request| {
        one.target() == "/api/runners/heartbeat" && one.json()["mode"] == "draining"
    };
    server.wait_for(|requests| requests.iter().any(is_draining));

    serving.leave();

    let last = server.requests_to("/api/runners/heartbeat").pop().unwrap();
    assert_eq!(last.json()["mode"], "stopping");
}

#[test]
fn an_outcome_that_the_platform_does_not_say_to_have_taken_is_told_again() {
    let replies = Mutex::new(vec![
        Reply::json(&json!({"success": true})),
        Reply::json(&json!({"success": false})),
        Reply::bytes("<html>Please log in</html>"),
    ]);
    let server = Server::start(move |request| match request.target() {
        "/api/webhooks/agent/complete" => replies.lock().unwrap().pop().unwrap(),
        _ => Reply::json(&json!({})),
    });
    let bench = Bench::new();
    let journal = Journal::open(bench.state.path()).unwrap();
    let run = RunId::parse("01234567-89ab-4def-8123-456789abcdef").unwrap();
    let completion = Completion { exit_code: 7, ..Completion::default() };
    let state = State::Ended { token: "t".into(), at_ms: guest_common::epoch_ms(), completion };
    journal.write(&Record { run, attempt: None, source: Kind::Api, state }).unwrap();
    let runner = tempfile::tempdir().unwrap();
    let source = source(&runner, &bench, &server.url(), "runner's");
    let serving = bench.start_with(source, &Arc::new(good().factory()));
    // It is told again while the service leaves, too.
    serving.leave();
    assert_eq!(server.requests_to("/api/webhooks/agent/complete").len(), 3);
    assert_eq!(bench.records(), 0);
}
