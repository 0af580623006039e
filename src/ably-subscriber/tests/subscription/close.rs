//! The end of a subscription, whatever it is doing.

use std::io::Write as _;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use ably_subscriber::{Event, Hosts};
use crossbeam_channel::{never, select};
use serde_json::json;

use crate::expect::{LONG, Subscriber};
use crate::server::Server;

/// Far less than any limit of the connection's.
const SOON: Duration = Duration::from_secs(30);

fn closes_soon(subscriber: Subscriber) {
    let start = Instant::now();
    subscriber.0.close().unwrap();
    assert!(start.elapsed() < SOON);
}

#[test]
fn closing_tells_the_server() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    closes_soon(subscriber);

    server.wait("close", 1);
    server.wait("gone", 1);
}

#[test]
fn dropping_a_subscription_closes_it() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    drop(subscriber);

    server.wait("close", 1);
}

#[test]
fn closing_ends_the_events_of_all_receivers() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    let receiver = subscriber.0.receiver().clone();

    closes_soon(subscriber);

    receiver.recv().unwrap_err();
}

#[test]
fn closing_does_not_wait_for_a_token() {
    let server = Server::start();
    server.set(json!({ "deaf": true }));
    let subscriber = Subscriber::start(server.config());
    server.wait("token", 1);

    closes_soon(subscriber);
}

#[test]
fn closing_does_not_wait_for_a_handshake() {
    let server = Server::start();
    let deaf = Server::start();
    deaf.set(json!({ "deaf": true }));
    let hosts = Hosts::new(&deaf.address(), &server.address()).unwrap();
    let subscriber = Subscriber::start(server.config().hosts(hosts));
    deaf.wait("upgrade", 1);

    closes_soon(subscriber);
}

#[test]
fn closing_does_not_wait_for_tls() {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::start();
    let hosts = Hosts::new(&address, &server.address()).unwrap();
    let subscriber = Subscriber::start(server.config().hosts(hosts));
    let _connection = listener.accept().unwrap();

    closes_soon(subscriber);
}

#[test]
fn closing_does_not_wait_for_the_end_of_a_flood() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (flooding, is_flooding) = crossbeam_channel::bounded(1);
    let flood = thread::Builder::new()
        .spawn(move || {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            socket.send(tungstenite::Message::binary(&b"\x81\xa6action\x04"[..])).unwrap();
            // A message in pieces of nothing.
            let stream = socket.get_mut();
            stream.write_all(&[0x02, 0]).unwrap();
            while stream.write_all(&[0; 64 << 10]).is_ok() {
                let _ = flooding.try_send(());
            }
        })
        .unwrap();
    let server = Server::start();
    let hosts = Hosts::new(&address, &server.address()).unwrap();
    let subscriber = Subscriber::start(server.config().hosts(hosts));
    is_flooding.recv().unwrap();

    closes_soon(subscriber);

    flood.join().unwrap();
}

#[test]
fn closing_does_not_wait_for_the_channel() {
    let server = Server::start();
    server.set(json!({ "attach": "silence" }));
    let subscriber = Subscriber::start(server.config());
    server.wait("attach", 1);

    closes_soon(subscriber);
}

#[test]
fn closing_does_not_wait_for_events_to_be_taken() {
    let server = Server::start();
    let subscriber = Subscriber::start(server.config().max_events(1));
    server.wait("attach", 1);
    ["a", "b", "c"].iter().for_each(|name| server.say(name));

    closes_soon(subscriber);
}

#[test]
fn closing_waits_for_a_callback_no_longer_than_it_says() {
    let server = Server::start();
    let (started, is_started) = crossbeam_channel::bounded(1);
    let subscriber = Subscriber::start(server.config_with(move || {
        started.send(()).unwrap();
        never::<()>().recv().unwrap();
        unreachable!()
    }));
    is_started.recv().unwrap();

    closes_soon(subscriber);
}

#[test]
fn a_failure_is_reported_to_a_late_subscriber() {
    let server = Server::start();
    let subscriber = Subscriber::start(server.config().max_events(1));
    server.wait("attach", 1);
    server.send(json!({ "action": 9, "error": { "code": 40400 } }));
    server.wait("gone", 1);

    subscriber.expect_connected();
    assert_eq!(subscriber.expect_failed().code, 40400);
}

#[test]
fn the_receiver_of_events_works_in_a_select() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");

    select! {
        recv(subscriber.0.receiver()) -> event => assert!(matches!(event, Ok(Event::Message(_)))),
        recv(never::<()>()) -> _ => {}
        default(LONG) => panic!("nothing came"),
    }
}

#[test]
fn events_can_be_iterated_over_to_their_end() {
    let server = Server::start();
    let subscriber = Subscriber::start(server.config());
    server.wait("attach", 1);
    server.say("a");
    server.send(json!({ "action": 9, "error": { "code": 40400 } }));

    let count = (&subscriber.0).into_iter().count();

    // Connected, the message, the failure.
    assert_eq!(count, 3);
}
