//! Connections that are lost, in all ways.

use std::net::TcpListener;
use std::time::Duration;

use ably_subscriber::{Event, Gap, Hosts};
use serde_json::{Value, json};

use crate::expect::Subscriber;
use crate::server::{Server, timing};

#[test]
fn a_lost_connection_is_resumed() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    server.drop_all("destroy");
    server.say("b");
    subscriber.expect_disconnected();
    subscriber.expect_connected();
    subscriber.expect("b");

    let connects = server.seen("connect");
    assert!(connects[1]["resume"].as_str().unwrap().starts_with("connection-"));
    assert_eq!(connects[0]["id"], connects[1]["id"]);
    assert_eq!(server.seen("attach")[1]["frame"]["channelSerial"], "1");
    assert_eq!(server.count("token"), 1);
}

#[test]
fn a_connection_lost_during_a_replay_is_resumed_without_loss() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    server.set(json!({ "cut": 2 }));
    server.drop_all("destroy");
    server.say("b");
    for _ in 0..3 {
        subscriber.expect_disconnected();
        subscriber.expect_connected();
    }

    subscriber.expect("b");
}

#[test]
fn a_connection_that_cannot_be_resumed_leaves_a_gap() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    server.say("lost");
    server.forget();
    server.drop_all("destroy");

    // It may have arrived just before.
    let mut events = vec![subscriber.next()];
    while !matches!(events.last(), Some(Event::Gap(Gap::NotResumed))) {
        events.push(subscriber.next());
    }
    assert!(events.contains(&Event::Connected));
    server.say("b");
    subscriber.expect("b");
}

#[test]
fn an_expired_connection_is_replaced_and_the_channel_resumed() {
    let server = Server::start();
    server.set(json!({ "details": { "connectionStateTtl": 0 } }));
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    server.drop_all("destroy");
    server.say("b");

    subscriber.expect_disconnected();
    subscriber.expect_connected();
    subscriber.expect("b");
    assert_eq!(server.seen("connect")[1]["resume"], Value::Null);
}

#[test]
fn a_resent_message_is_delivered_once() {
    let server = Server::start();
    server.set(json!({ "repeat": 3 }));
    let subscriber = Subscriber::connected(server.config());
    for name in ["a", "b", "c", "d"] {
        server.say(name);
        subscriber.expect(name);
    }

    server.drop_all("destroy");
    subscriber.expect_disconnected();
    subscriber.expect_connected();
    server.say("e");

    subscriber.expect("e");
}

#[test]
fn a_server_that_disconnects_is_connected_again() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.send(json!({ "action": 6, "error": { "code": 80003, "message": "restarting" } }));

    assert_eq!(subscriber.expect_disconnected(), "the server disconnected, code 80003: restarting");
    subscriber.expect_connected();
    assert!(server.seen("connect")[1]["resume"].is_string());
}

#[test]
fn a_connection_closed_by_the_server_is_replaced() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.send(json!({ "action": 8 }));

    assert_eq!(subscriber.expect_disconnected(), "the server closed the connection");
    subscriber.expect_connected();
    assert_eq!(server.seen("connect")[1]["resume"], Value::Null);
}

#[test]
fn a_closed_websocket_is_reopened() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.drop_all("close");

    subscriber.expect_disconnected();
    subscriber.expect_connected();
}

#[test]
fn a_silent_server_is_disconnected() {
    let server = Server::start();
    server.set(json!({ "details": { "maxIdleInterval": 1 } }));
    let mut timing = timing();
    timing.grace = Duration::from_millis(100);
    let subscriber = Subscriber::start(server.config().timing(timing));
    server.wait("attach", 1);

    server.set(json!({ "details": {} }));
    server.drop_all("silence");
    server.say("a");

    // On a busy machine it may have been silent before that, too.
    let mut events = vec![subscriber.next()];
    while !matches!(events.last(), Some(Event::Message(_))) {
        events.push(subscriber.next());
    }
    let is_silence = |event: &Event| matches!(event, Event::Disconnected { reason } if reason.starts_with("nothing came for"));
    assert!(events.iter().any(is_silence), "{events:?}");
}

#[test]
fn a_final_error_of_the_connection_fails() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.send(json!({ "action": 9, "error": { "code": 40400, "message": "no such app" } }));

    let failure = subscriber.expect_failed();
    assert_eq!(failure.code, 40400);
    assert_eq!(failure.message, "the server refused, code 40400: no such app");
    server.wait("gone", 1);
}

#[test]
fn an_unreachable_primary_host_is_replaced_by_a_fallback() {
    let server = Server::start();
    let refusing = unused_address();
    let hosts = Hosts::new(&refusing, &refusing).unwrap().fallbacks(&[&server.address()]).unwrap();

    Subscriber::connected(server.config().hosts(hosts));
}

#[test]
fn an_overloaded_primary_host_is_replaced_by_a_fallback() {
    let server = Server::start();
    let overloaded = Server::start();
    overloaded.set(json!({ "upgradeReply": { "status": 503 } }));
    let hosts = Hosts::new(&overloaded.address(), &server.address()).unwrap();
    let hosts = hosts.fallbacks(&[&server.address()]).unwrap();

    Subscriber::connected(server.config().hosts(hosts));

    assert_eq!((overloaded.count("upgrade"), server.count("upgrade")), (1, 1));
}

#[test]
fn connecting_continues_until_the_server_is_up() {
    let server = Server::start();
    server.set(json!({ "upgradeReply": { "status": 503 } }));
    let subscriber = Subscriber::start(server.config());
    server.wait("upgrade", 5);

    server.set(json!({ "upgradeReply": null }));

    assert!(subscriber.expect_disconnected().contains("with HTTP 503"));
    subscriber.expect_connected();
}

#[test]
fn ten_thousand_messages_survive_fifty_lost_connections() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config().max_events(20_000));
    server.command(&json!({ "op": "flood", "count": 10_000, "every": 200, "way": "destroy" }));
    server.say("end");

    let (mut names, mut losses) = (Vec::new(), 0);
    loop {
        match subscriber.next() {
            Event::Message(message) if message.name.as_deref() == Some("end") => break,
            Event::Message(message) => names.push(message.name.unwrap()),
            Event::Disconnected { .. } => losses += 1,
            Event::Connected => {}
            other => panic!("{other:?}"),
        }
    }

    assert_eq!(losses, 50);
    assert_eq!(names, (0..10_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn after_a_gap_messages_are_neither_duplicated_nor_reordered() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config().max_events(20_000));
    for round in 0..10 {
        server.command(&json!({ "op": "flood", "count": 100, "every": 30, "way": "destroy" }));
        server.forget();
        server.drop_all("destroy");
        server.wait("attach", 1 + 4 * (round + 1));
    }
    server.say("end");

    let mut last = (0, None);
    loop {
        match subscriber.next() {
            Event::Message(message) if message.name.as_deref() == Some("end") => break,
            Event::Message(message) => {
                let serial = message.timestamp_ms;
                assert!(serial > last.1, "{message:?}");
                // Nothing is missing but at a gap.
                assert!(last.0 > 0 || serial == last.1.map(|n| n + 1) || last.1.is_none());
                last = (0, serial);
            }
            Event::Gap(_) => last.0 += 1,
            _ => {}
        }
    }
}

/// An address without a listener.
fn unused_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
