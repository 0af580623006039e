//! Attaching, detaching, and what of a channel's is not for us.

use std::time::Duration;

use ably_subscriber::Gap;
use serde_json::{Value, json};

use crate::expect::Subscriber;
use crate::server::{Server, timing};

const MODE_SUBSCRIBE: u64 = 1 << 18;
const ATTACH_RESUME: u64 = 1 << 5;
const RESUMED: u64 = 1 << 2;

fn attached(flags: u64) -> Value {
    json!({ "action": 11, "channel": "jobs", "flags": flags })
}

fn detached() -> Value {
    json!({ "action": 13, "channel": "jobs", "error": { "code": 90198, "message": "moved" } })
}

#[test]
fn the_first_connection_has_the_parameters_of_the_protocol() {
    let server = Server::start();
    let _subscriber = Subscriber::connected(server.config().param("rewind", "2"));

    let url = server.seen("upgrade")[0]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("/?access_token=app%2Etoken%2D1%3A%2B%2Fsecret&"), "{url}");
    assert!(url.contains("&format=msgpack&v=5&heartbeats=true&echo=false&agent=ably"), "{url}");
    assert!(!url.contains("resume"), "{url}");
    let attach = &server.seen("attach")[0]["frame"];
    assert_eq!(attach["channel"], "jobs");
    assert_eq!(attach["flags"], MODE_SUBSCRIBE);
    assert_eq!(attach["params"], json!({ "rewind": "2" }));
    assert_eq!(attach["channelSerial"], Value::Null);
}

#[test]
fn rewind_delivers_earlier_messages() {
    let server = Server::start();
    ["a", "b", "c"].iter().for_each(|name| server.say(name));

    let subscriber = Subscriber::connected(server.config().param("rewind", "2"));

    subscriber.expect("b");
    subscriber.expect("c");
}

#[test]
fn malformed_and_foreign_frames_are_ignored() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.command(&json!({ "op": "sendRaw", "text": "text" }));
    server.command(&json!({ "op": "sendRaw", "base64": "" }));
    // A map that is cut, a map with something after it, an array, never used.
    for garbage in ["g6ZhY3Rpb24P", "gADA", "kA==", "wQ==", "////"] {
        server.command(&json!({ "op": "sendRaw", "base64": garbage }));
    }
    for action in [0, 1, 2, 3, 5, 14, 16, 18, 99] {
        server.send(json!({ "action": action, "channel": "jobs", "messages": [{ "name": "x" }] }));
    }
    server.send(json!({ "action": "MESSAGE", "channel": "jobs" }));
    server.send(json!({ "action": 15, "channel": "others", "messages": [{ "name": "x" }] }));
    server.send(json!({ "action": 9, "channel": "others", "error": { "code": 40160 } }));
    server.send(json!({ "action": 13, "channel": "others" }));
    server.send(json!({ "action": 15, "channel": "jobs" }));
    server.command(&json!({ "op": "ping" }));
    server.wait("pong", 1);
    server.say("a");

    subscriber.expect("a");
    assert_eq!(server.count("upgrade"), 1);
}

#[test]
fn messages_before_the_channel_is_attached_are_dropped_and_not_counted() {
    let server = Server::start();
    server.set(json!({ "attach": "silence" }));
    let subscriber = Subscriber::start(server.config());
    server.wait("attach", 1);
    let early = json!([{ "name": "early" }]);
    server
        .send(json!({ "action": 15, "channel": "jobs", "channelSerial": "7", "messages": early }));
    server.set(json!({ "attach": null }));
    server.send(detached());
    server.wait("attach", 2);
    server.say("a");

    // A channel that is not wanted at first is asked for again.
    assert!(subscriber.expect_disconnected().contains("90198: moved"));
    subscriber.expect_connected();
    subscriber.expect("a");
    assert_eq!(server.seen("attach")[1]["frame"]["channelSerial"], Value::Null);
}

#[test]
fn a_channel_that_is_detached_is_attached_again_on_the_same_connection() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    server.send(detached());
    let reason = subscriber.expect_disconnected();
    subscriber.expect_connected();
    server.say("b");
    subscriber.expect("b");

    assert_eq!(reason, "the server detached the channel, code 90198: moved");
    assert_eq!(server.count("upgrade"), 1);
    let again = &server.seen("attach")[1]["frame"];
    assert_eq!(again["channelSerial"], "1");
    assert_eq!(again["flags"], MODE_SUBSCRIBE | ATTACH_RESUME);
}

#[test]
fn a_reattachment_without_resume_is_a_gap() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.send(attached(MODE_SUBSCRIBE | RESUMED));
    server.send(attached(MODE_SUBSCRIBE));

    subscriber.expect_gap(Gap::NotResumed);
    server.say("a");
    subscriber.expect("a");
}

#[test]
fn an_error_of_the_channel_is_final() {
    let server = Server::start();
    let error = json!({ "code": 40160, "statusCode": 401, "message": "not yours" });
    server.set(json!({ "attach": { "action": 9, "channel": "jobs", "error": error } }));

    let failure = Subscriber::start(server.config()).expect_failed();

    assert_eq!(failure.code, 40160);
    assert_eq!(failure.message, "the server refused, code 40160: not yours");
    assert!(failure.remedy.contains("capability to subscribe to `jobs`"), "{}", failure.remedy);
}

#[test]
fn a_missing_permission_to_subscribe_is_an_error() {
    let server = Server::start();
    server.set(json!({ "flags": 0 }));

    let failure = Subscriber::start(server.config()).expect_failed();

    assert_eq!(failure.code, 40160);
}

#[test]
fn a_server_that_does_not_attach_is_disconnected() {
    let server = Server::start();
    server.set(json!({ "attach": "silence" }));
    let mut timing = timing();
    timing.attach = Duration::from_millis(1);
    let subscriber = Subscriber::start(server.config().timing(timing));
    let reason = subscriber.expect_disconnected();
    server.wait("upgrade", 2);

    assert!(reason.starts_with("the server did not attach the channel in"), "{reason}");
}
