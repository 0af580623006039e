//! Events: in order, all of them, whatever the platform and the network do.

use guest_test::{Ending, Reply};
use serde_json::json;

use crate::harness::{Place, make_pipe, read_pipe};

#[test]
fn events_arrive_numbered_and_in_order() {
    let place = Place::new("echo hello");
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(place.platform.sequences(), [0, 1, 2, 3, 4]);
    let kinds: Vec<_> = place.platform.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["system", "assistant", "assistant", "user", "result"]);
    assert_eq!(run.outcome["lastEventSequence"], 4);
    assert_eq!(
        place.text("home/.vm0/guest-agent/runs/run-1/acknowledged").trim(),
        format!("{:020}", 4)
    );
}

#[test]
fn a_flood_arrives_whole_in_batches_within_the_limits() {
    let place = Place::new("@flood:3000");
    assert_eq!(place.run().code, Some(0));
    assert!(place.platform.sequences().into_iter().eq(0..3002));
    let requests = place.platform.calls("events");
    assert!(requests.iter().all(|request| request.body.len() <= 512 << 10));
    let sizes = place.platform.bodies("events");
    assert!(sizes.iter().all(|body| body["events"].as_array().unwrap().len() <= 100));
}

#[test]
fn parts_of_events_and_what_is_no_event_are_not_sent() {
    let place = Place::with_cli(
        r#"session
        say '{"type":"stream_event","event":{}}'
        say 'Warning: not JSON'
        say ''
        say '{"type":"result","is_error":false}'"#,
    );
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let kinds: Vec<_> = place.platform.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["system", "result"]);
    assert_eq!(place.platform.sequences(), [0, 1]);
}

#[test]
fn the_agent_is_not_held_up_by_a_platform_that_does_not_answer() {
    let script = r#"session
        for number in {1..60000}; do say '{"type":"assistant","text":"0123456789012345678901234567890123456789"}'; done
        echo done > "$HOME/done""#;
    let place = Place::with_cli(script);
    make_pipe(&place.path("home/done"));
    place.platform.answer("events", Reply::bytes("{}").ending(Ending::SilentAfter(0)));
    let running = place.start();
    // The CLI has said all of it, several times what is kept in memory, and no event has arrived.
    assert_eq!(read_pipe(&place.path("home/done")), "done\n");
    assert_eq!(place.platform.calls("events").len(), 1);
    place.platform.server.drop_connections();
    let run = running.wait(&place);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let sequences = place.platform.sequences();
    // The first batch came twice: as it was sent, and again after the connection had broken.
    let first = place.platform.bodies("events")[0].clone();
    assert_eq!(first, place.platform.bodies("events")[1]);
    let again = first["events"].as_array().unwrap().len();
    assert!(sequences[again..].iter().copied().eq(0..60_001));
}

#[test]
fn errors_of_the_platform_delay_events_but_lose_none() {
    let place = Place::new("echo hello");
    place.platform.answer("events", Reply::status(500));
    place.platform.answer("events", Reply::refusal(429, "slowly").with("retry-after", "0"));
    place.platform.answer("events", Reply::dropped());
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let bodies = place.platform.bodies("events");
    assert!(bodies.len() >= 4);
    assert!(bodies[..4].iter().all(|body| *body == bodies[0]));
    assert_eq!(run.outcome["lastEventSequence"], 4);
}

#[test]
fn a_batch_whose_reply_is_lost_or_lacks_a_field_is_sent_again_as_it_was() {
    let place = Place::new("echo hello");
    place.platform.answer("events", Reply::json(&json!({ "received": 5 })));
    place.platform.answer("events", Reply::bytes("{\"received\":").ending(Ending::CutAfter(3)));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let bodies = place.platform.bodies("events");
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(bodies[0], bodies[2]);
}

#[test]
fn only_the_event_that_is_refused_is_lost_and_the_run_says_which() {
    let place = Place::with_cli(
        r#"session
        say '{"type":"a"}'; say '{"type":"poison"}'; say '{"type":"b"}'
        say '{"type":"result","is_error":false}'"#,
    );
    place.platform.refuse_events_with("poison");
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().starts_with("events 2 are lost: POST"), "{}", run.error());
    assert!(run.error().contains("HTTP 400: bad event"), "{}", run.error());
    assert_eq!(run.outcome["lastEventSequence"], 1);
    assert_eq!(place.platform.taken_sequences(), [0, 1, 3, 4]);
    assert!(place.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_run_whose_events_the_platform_refuses_ends_at_once_and_asks_once() {
    for status in [401, 403, 404] {
        let place = Place::with_cli("session\nexec sleep infinity");
        place.platform.answer("events", Reply::refusal(status, "no such run"));
        let run = place.run();
        assert_eq!(run.code, Some(1));
        let error = "events 0 and all after it are lost: the platform refuses the run, which was lost or has ended there: POST";
        assert!(run.error().starts_with(error), "{}", run.error());
        assert!(run.error().ends_with(&format!("HTTP {status}: no such run")), "{}", run.error());
        assert_eq!(place.platform.calls("events").len(), 1);
        assert_eq!(run.outcome.get("lastEventSequence"), None);
    }
}

#[test]
fn an_event_that_is_too_long_is_a_loss_that_is_named() {
    let place = Place::with_cli(
        r#"session
        printf '{"type":"x","y":"'; head -c 17000000 /dev/zero | tr '\0' y; printf '"}\n'
        say '{"type":"result","is_error":false}'"#,
    );
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "events 1 are lost: too long to be sent");
    assert_eq!(place.platform.sequences(), [0, 2]);
}

#[test]
fn an_event_over_the_batch_limit_goes_alone() {
    let place = Place::with_cli(
        r#"session
        printf '{"type":"x","y":"'; head -c 700000 /dev/zero | tr '\0' y; printf '"}\n'
        say '{"type":"result","is_error":false}'"#,
    );
    assert_eq!(place.run().code, Some(0));
    let bodies = place.platform.bodies("events");
    let long = bodies.iter().find(|body| body["events"][0]["type"] == "x").unwrap();
    assert_eq!(long["events"].as_array().unwrap().len(), 1);
}
