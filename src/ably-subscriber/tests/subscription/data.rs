//! What messages are made of.

use ably_subscriber::{Data, Event, Gap, Message};
use serde_json::json;

use crate::expect::Subscriber;
use crate::server::Server;

fn received(messages: serde_json::Value) -> Message {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.publish(messages);
    subscriber.expect_message()
}

#[test]
fn a_message_has_all_fields_of_its_publisher() {
    let message = received(json!([{ "id": "m1", "name": "job", "data": "x", "clientId": "me" }]));

    assert_eq!(message.id.as_deref(), Some("m1"));
    assert_eq!(message.name.as_deref(), Some("job"));
    assert_eq!(message.data, Data::Text("x".into()));
    assert_eq!(message.client_id.as_deref(), Some("me"));
    assert_eq!(message.encoding, None);
}

#[test]
fn fields_that_a_message_lacks_are_taken_from_its_frame() {
    let message = received(json!([{ "name": "job" }]));

    assert_eq!(message.id.as_deref(), Some("publisher:1:0"));
    assert_eq!(message.connection_id.as_deref(), Some("publisher"));
    assert_eq!(message.timestamp_ms, Some(1_700_000_000_001));
    assert_eq!(message.data, Data::None);
}

#[test]
fn a_message_of_an_object_is_delivered_as_json() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Job {
        run_id: String,
    }

    let message = received(json!([{ "data": { "more": [1], "runId": "r" } }]));

    assert_eq!(message.data.parse::<Job>().unwrap().run_id, "r");
    assert_eq!(message.data, Data::Json(r#"{"more":[1],"runId":"r"}"#.into()));
}

#[test]
fn a_message_of_bytes_is_delivered_as_bytes() {
    let message = received(json!([{ "base64": "AP/+gA==" }]));

    assert_eq!(message.data, Data::Binary(vec![0, 255, 254, 128]));
}

#[test]
fn a_large_message_is_delivered_completely() {
    let text = "0123456789".repeat(50_000);

    let message = received(json!([{ "data": text }]));

    assert_eq!(message.data, Data::Text(text));
}

#[test]
fn chained_encodings_are_decoded() {
    let message = received(json!([{ "data": "eyJhIjoxfQ==", "encoding": "json/utf-8/base64" }]));

    assert_eq!((message.data, message.encoding), (Data::Json(r#"{"a":1}"#.into()), None));
}

#[test]
fn an_encrypted_message_is_delivered_encrypted() {
    let encoding = "json/utf-8/cipher+aes-256-cbc";
    let message = received(json!([{ "base64": "AAEC", "encoding": encoding }]));

    assert_eq!(message.data, Data::Binary(vec![0, 1, 2]));
    assert_eq!(message.encoding.as_deref(), Some(encoding));
}

#[test]
fn a_malformed_message_among_messages_is_a_gap() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    let messages = json!([{ "name": "a" }, 7, { "name": "b" }]);
    server.send(json!({ "action": 15, "channel": "jobs", "messages": messages }));

    subscriber.expect("a");
    subscriber.expect_gap(Gap::Unreadable);
    subscriber.expect("b");
}

#[test]
fn events_that_are_not_taken_leave_a_gap() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config().max_events(4));
    for name in ["0", "1", "2", "3", "4", "5"] {
        server.say(name);
    }
    // What was published before is read before a ping is answered.
    server.command(&json!({ "op": "ping" }));
    server.wait("pong", 1);

    ["0", "1", "2", "3"].iter().for_each(|name| subscriber.expect(name));
    subscriber.expect_gap(Gap::Overflow);
    server.say("6");
    subscriber.expect("6");
}

#[test]
fn a_frame_that_is_too_large_is_a_gap_and_not_requested_again() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config().max_frame_size(4096));
    server.publish(json!([{ "name": "large", "data": "x".repeat(8192) }]));

    subscriber.expect_gap(Gap::TooLarge);
    assert_eq!(subscriber.expect_disconnected(), "a frame is larger than 4096 bytes");
    subscriber.expect_connected();
    assert_eq!(subscriber.next(), Event::Gap(Gap::NotResumed));
    server.say("a");
    subscriber.expect("a");
}
