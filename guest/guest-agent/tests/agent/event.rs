//! All events arrive in order, whatever the platform and the network do.

use guest_test::{Ending, Reply};
use serde_json::json;

use crate::harness::{Fixture, make_pipe, read_pipe};

#[test]
fn events_arrive_numbered_and_in_order() {
    let fixture = Fixture::new("echo hello");
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(fixture.platform.sequences(), [0, 1, 2, 3, 4]);
    let kinds: Vec<_> =
        fixture.platform.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["system", "assistant", "assistant", "user", "result"]);
    assert_eq!(run.outcome["lastEventSequence"], 4);
    assert_eq!(
        fixture.text("home/.vm0/guest-agent/runs/run-1/acknowledged").trim(),
        format!("{:020}", 4)
    );
}

#[test]
fn many_events_arrive_in_batches_within_the_limits() {
    let fixture = Fixture::new("@flood:3000");
    assert_eq!(fixture.run().code, Some(0));
    assert!(fixture.platform.sequences().into_iter().eq(0..3002));
    let requests = fixture.platform.calls("events");
    assert!(requests.iter().all(|request| request.body.len() <= 512 << 10));
    let sizes = fixture.platform.bodies("events");
    assert!(sizes.iter().all(|body| body["events"].as_array().unwrap().len() <= 100));
}

#[test]
fn partial_events_and_lines_that_are_no_events_are_not_sent() {
    let fixture = Fixture::with_cli(
        r#"session
        say '{"type":"stream_event","event":{}}'
        say 'Warning: not JSON'
        say ''
        say '{"type":"result","is_error":false}'"#,
    );
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let kinds: Vec<_> =
        fixture.platform.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["system", "result"]);
    assert_eq!(fixture.platform.sequences(), [0, 1]);
}

#[test]
fn a_platform_that_does_not_answer_does_not_block_the_cli() {
    let script = r#"session
        for number in {1..60000}; do say '{"type":"assistant","text":"0123456789012345678901234567890123456789"}'; done
        echo done > "$HOME/done""#;
    let fixture = Fixture::with_cli(script);
    make_pipe(&fixture.path("home/done"));
    fixture.platform.answer("events", Reply::bytes("{}").ending(Ending::SilentAfter(0)));
    let running = fixture.start();
    // The CLI has written several times what fits into memory, and no event is acknowledged.
    assert_eq!(read_pipe(&fixture.path("home/done")), "done\n");
    assert_eq!(fixture.platform.calls("events").len(), 1);
    fixture.platform.server.drop_connections();
    let run = running.wait(&fixture);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let sequences = fixture.platform.sequences();
    // The first batch came twice: once before the connection broke and once after.
    let first = fixture.platform.bodies("events")[0].clone();
    assert_eq!(first, fixture.platform.bodies("events")[1]);
    let again = first["events"].as_array().unwrap().len();
    assert!(sequences[again..].iter().copied().eq(0..60_001));
}

#[test]
fn errors_of_the_platform_delay_events_but_lose_none() {
    let fixture = Fixture::new("echo hello");
    fixture.platform.answer("events", Reply::status(500));
    fixture.platform.answer("events", Reply::refusal(429, "slowly").with("retry-after", "0"));
    fixture.platform.answer("events", Reply::dropped());
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let bodies = fixture.platform.bodies("events");
    assert!(bodies.len() >= 4);
    assert!(bodies[..4].iter().all(|body| *body == bodies[0]));
    assert_eq!(run.outcome["lastEventSequence"], 4);
}

#[test]
fn a_batch_whose_reply_is_lost_or_lacks_a_field_is_sent_again_unchanged() {
    let fixture = Fixture::new("echo hello");
    fixture.platform.answer("events", Reply::json(&json!({ "received": 5 })));
    fixture.platform.answer("events", Reply::bytes("{\"received\":").ending(Ending::CutAfter(3)));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let bodies = fixture.platform.bodies("events");
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(bodies[0], bodies[2]);
}

#[test]
fn only_a_rejected_event_is_lost_and_the_error_has_its_number() {
    let fixture = Fixture::with_cli(
        r#"session
        say '{"type":"a"}'; say '{"type":"poison"}'; say '{"type":"b"}'
        say '{"type":"result","is_error":false}'"#,
    );
    fixture.platform.reject_events_with("poison");
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().starts_with("events 2 are lost: POST"), "{}", run.error());
    assert!(run.error().contains("HTTP 400: bad event"), "{}", run.error());
    assert_eq!(run.outcome["lastEventSequence"], 1);
    assert_eq!(fixture.platform.accepted_sequences(), [0, 1, 3, 4]);
    assert!(fixture.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_status_that_rejects_the_run_ends_it_after_one_request() {
    for status in [401, 403, 404] {
        let fixture = Fixture::with_cli("session\nexec sleep infinity");
        fixture.platform.answer("events", Reply::refusal(status, "no such run"));
        let run = fixture.run();
        assert_eq!(run.code, Some(1));
        let error = "events 0 and all after it are lost: the platform rejects the run: it was lost or has ended there: POST";
        assert!(run.error().starts_with(error), "{}", run.error());
        assert!(run.error().ends_with(&format!("HTTP {status}: no such run")), "{}", run.error());
        assert_eq!(fixture.platform.calls("events").len(), 1);
        assert_eq!(run.outcome.get("lastEventSequence"), None);
    }
}

#[test]
fn an_event_that_is_too_long_is_lost_and_the_error_has_its_number() {
    let fixture = Fixture::with_cli(
        r#"session
        printf '{"type":"x","y":"'; head -c 17000000 /dev/zero | tr '\0' y; printf '"}\n'
        say '{"type":"result","is_error":false}'"#,
    );
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "events 1 are lost: too long to be sent");
    assert_eq!(fixture.platform.sequences(), [0, 2]);
}

#[test]
fn an_event_over_the_batch_limit_is_sent_in_a_batch_of_its_own() {
    let fixture = Fixture::with_cli(
        r#"session
        printf '{"type":"x","y":"'; head -c 700000 /dev/zero | tr '\0' y; printf '"}\n'
        say '{"type":"result","is_error":false}'"#,
    );
    assert_eq!(fixture.run().code, Some(0));
    let bodies = fixture.platform.bodies("events");
    let long = bodies.iter().find(|body| body["events"][0]["type"] == "x").unwrap();
    assert_eq!(long["events"].as_array().unwrap().len(), 1);
}
