//! Events: stored once, given out in the order in which they came.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Host, refusal};

fn sequences(host: &Host, run: platform::RunId) -> Vec<i64> {
    let page = host.client().events(run, 0, Duration::ZERO).unwrap();
    page.items.iter().map(|event| event.sequence).collect()
}

#[test]
fn a_batch_sent_twice_is_stored_once() {
    let host = Host::start();
    let guest = host.running();
    guest.events(&[0, 1]).ok();

    let again = guest.events(&[0, 1, 2]).ok();

    assert_eq!(again, json!({"received": 3, "firstSequence": 0, "lastSequence": 2}));
    assert_eq!(sequences(&host, guest.run), [0, 1, 2]);
    assert_eq!(host.job(guest.run).events, 3);
}

#[test]
fn the_first_of_two_events_with_one_number_stays() {
    let host = Host::start();
    let guest = host.running();
    let send = |text| {
        guest.post("events", json!({"events": [{"sequenceNumber": 0, "type": "x", "text": text}]}))
    };
    send("first").ok();
    send("second").ok();

    let page = host.client().events(guest.run, 0, Duration::ZERO).unwrap();

    assert!(page.items[0].event.get().contains("first"));
}

#[test]
fn gaps_are_counted_until_they_are_filled() {
    let host = Host::start();
    let guest = host.running();
    guest.events(&[0, 4]).ok();
    assert_eq!(host.job(guest.run).missing_events, 3);

    guest.events(&[2, 1]).ok();

    assert_eq!(host.job(guest.run).missing_events, 1);
    assert_eq!(sequences(&host, guest.run), [0, 4, 2, 1]);
}

#[test]
fn each_attempt_counts_its_events_from_zero() {
    let host = Host::start();
    let source = host.source();
    let guest = host.running();
    guest.events(&[0, 1]).ok();
    source.give_back(guest.run, 1).unwrap();
    let second = host.claim(guest.run);

    second.events(&[0]).ok();

    let page = host.client().events(guest.run, 0, Duration::ZERO).unwrap();
    let seen: Vec<_> = page.items.iter().map(|event| (event.attempt, event.sequence)).collect();
    assert_eq!(seen, [(1, 0), (1, 1), (2, 0)]);
    assert_eq!(host.job(guest.run).events, 1);
}

#[test]
fn an_event_is_returned_unchanged() {
    let host = Host::start();
    let guest = host.running();
    let text = r#"{"z":1.0,"a":[12345678901234567890],"type":"x","sequenceNumber":0}"#;
    let body = format!(r#"{{"runId":"{}","events":[{text}]}}"#, guest.run);
    let headers = format!("Authorization: Bearer {}\r\n", guest.token);
    host.send("POST", "/api/webhooks/agent/events", &headers, body.as_bytes()).ok();

    let page = host.client().events(guest.run, 0, Duration::ZERO).unwrap();

    assert_eq!(page.items[0].event.get(), text);
}

#[test]
fn a_follower_sees_all_events_while_they_come_and_ends_with_the_job() {
    let host = Host::start();
    let guest = host.running();
    guest.events(&[0]).ok();

    let followed = std::thread::scope(|scope| {
        let client = host.client();
        let follower = scope.spawn(move || client.follow(guest.run, 0).collect::<Vec<_>>());
        guest.events(&[1, 2]).ok();
        guest.events(&[3]).ok();
        guest.complete(0).ok();
        follower.join().unwrap()
    });

    let seen: Vec<_> = followed.into_iter().map(|event| event.unwrap().sequence).collect();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn events_survive_a_crash() {
    let mut host = Host::start();
    let guest = host.running();
    guest.events(&[0, 1]).ok();
    let run = guest.run;

    host.restart();

    assert_eq!(sequences(&host, run), [0, 1]);
}

#[test]
fn a_token_is_valid_for_its_run_only() {
    let host = Host::start();
    let (one, mut other) = (host.running(), host.running());
    other.token.clone_from(&one.token);

    assert_eq!(other.events(&[0]).refused(), refusal(403, "WRONG_RUN"));
    other.token = "run_guess".into();
    assert_eq!(other.events(&[0]).refused(), refusal(401, "UNAUTHORIZED"));
    other.token = host.platform().runner_token().into();
    assert_eq!(other.events(&[0]).refused(), refusal(401, "UNAUTHORIZED"));
}

#[test]
fn a_run_that_has_ended_takes_no_events() {
    let host = Host::start();
    let guest = host.running();
    guest.complete(0).ok();

    assert_eq!(guest.events(&[0]).refused(), refusal(409, "RUN_ENDED"));
    assert_eq!(guest.post("heartbeat", json!({})).refused(), refusal(409, "RUN_ENDED"));
}

#[test]
fn malformed_batches_are_rejected() {
    let host = Host::start();
    let guest = host.running();
    let status = |events: Value| guest.post("events", json!({"events": events})).status;

    assert_eq!(status(json!([])), 400);
    assert_eq!(status(json!([{"type": "x"}])), 400);
    assert_eq!(status(json!([{"sequenceNumber": -1}])), 400);
    assert_eq!(status(json!([7])), 400);
    assert_eq!(status(json!(vec![json!({"sequenceNumber": 0}); 1001])), 413);
}

#[test]
fn a_run_that_exceeds_its_storage_limit_is_rejected() {
    let host = Host::with(|config| config.largest_record = 150);
    let guest = host.running();
    guest.events(&[0, 1]).ok();

    assert_eq!(guest.events(&[2, 3, 4]).refused(), refusal(413, "TOO_LARGE"));
    assert_eq!(sequences(&host, guest.run), [0, 1]);
}
