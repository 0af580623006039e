//! A runner and a guest with the addresses of two platforms, one of which dies in the middle of a call: after it
//! carried the call out, and before the reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guest_test::{Reply, Request, Server};
use platform::{RunId, Status};
use platform_client::{
    ClientType, PlatformAddresses, PlatformClient, PlatformCredentials, RequestCancellation,
    RequestLimits,
};
use serde_json::{Value, json};

use crate::harness::Host;
use crate::jobs::RUNNER;
use crate::replicas::beside;

/// An address of a platform that dies with the first call whose path ends like this.
fn dying(host: &Arc<Host>, last: &'static str) -> Server {
    let (host, is_dead) = (Arc::clone(host), AtomicBool::new(false));
    Server::start(move |request| {
        if is_dead.load(Ordering::SeqCst) {
            return Reply::dropped();
        }
        let reply = forward(&host, request);
        if request.target().ends_with(last) {
            is_dead.store(true, Ordering::SeqCst);
            return Reply::dropped();
        }
        reply
    })
}

fn forward(host: &Host, request: &Request) -> Reply {
    let header = |name| format!("{name}: {}\r\n", request.header(name).unwrap_or_default());
    let headers = header("authorization") + &header("x-client-request-id");
    let reply = host.send("POST", request.target(), &headers, &request.body);
    Reply::bytes(reply.body).with_status(reply.status)
}

fn client(addresses: &PlatformAddresses, token: &str) -> PlatformClient {
    let credentials = PlatformCredentials {
        addresses: addresses.clone(),
        token: token.to_owned(),
        bypass: None,
        client_session: RUNNER.into(),
    };
    let limits = RequestLimits::within(Duration::from_secs(30));
    let stop = RequestCancellation::new();
    PlatformClient::of(ClientType::Runner, &credentials, limits, &stop).unwrap()
}

/// Runs a job from its submission to its end while the preferred platform dies in a call.
fn run_while_one_dies(last: &'static str) {
    let one = Arc::new(Host::start());
    let other = beside(&one);
    let front = dying(&one, last);
    let urls = [front.url(), format!("http://{}", other.address())];
    let addresses = PlatformAddresses::preferring(0, &urls);
    let runner = client(&addresses, one.platform().runner_token());
    let run = one.submit("x");

    let poll = json!({"runnerId": RUNNER, "group": "test/default",
        "supportedProfiles": ["default"]});
    let offer: Value = runner.post("/api/runners/poll", &poll).unwrap();
    let claim = format!("/api/runners/jobs/{run}/claim");
    let context: Value = runner.post(&claim, &json!({})).unwrap();
    let guest = client(&addresses, context["sandboxToken"].as_str().unwrap());
    let post = |path: &str, mut body: Value| -> Value {
        body["runId"] = json!(run);
        guest.post(&format!("/api/webhooks/agent/{path}"), &body).unwrap()
    };
    post("heartbeat", json!({}));
    for number in 0..3 {
        let event = json!({"type": "assistant", "sequenceNumber": number});
        post("events", json!({"events": [event]}));
    }
    let completed = post("complete", json!({"exitCode": 0}));

    assert_eq!(offer["job"]["runId"], json!(run));
    assert_eq!(completed["status"], "completed");
    assert!(front.requests().iter().any(|request| request.target().ends_with(last)));
    check(&other, run);
}

/// The job ended once, in its first attempt, and each event is there once and in order.
fn check(host: &Host, run: RunId) {
    let job = host.job(run);
    assert_eq!((job.status, job.attempt, job.events), (Status::Completed, 1, 3));
    let page = host.client().events(run, 0, Duration::ZERO).unwrap();
    assert_eq!(page.items.iter().map(|event| event.sequence).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_job_survives_a_platform_that_dies_in_a_poll() {
    run_while_one_dies("/poll");
}

#[test]
fn a_job_survives_a_platform_that_dies_in_its_claim() {
    run_while_one_dies("/claim");
}

#[test]
fn a_job_survives_a_platform_that_dies_in_a_heartbeat() {
    run_while_one_dies("/heartbeat");
}

#[test]
fn a_job_survives_a_platform_that_dies_in_a_batch_of_events() {
    run_while_one_dies("/events");
}

#[test]
fn a_job_survives_a_platform_that_dies_in_its_completion() {
    run_while_one_dies("/complete");
}

#[test]
fn a_poll_that_a_stopping_platform_held_goes_on_at_another() {
    let mut one = Host::start();
    let other = beside(&one);
    let urls = [&one, &other].map(|host| format!("http://{}", host.address()));
    let runner = client(&PlatformAddresses::preferring(0, &urls), one.platform().runner_token());
    let poll = json!({"runnerId": RUNNER, "group": "test/default",
        "supportedProfiles": ["default"]});

    let (run, offer) = std::thread::scope(|scope| {
        let held = scope.spawn(|| runner.post::<Value>("/api/runners/poll", &poll).unwrap());
        one.stop();
        (other.submit("x"), held.join().unwrap())
    });

    assert_eq!(offer["job"]["runId"], json!(run));
}
