//! Tokens: got, renewed, refused, and never shown.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use ably_subscriber::{Event, TokenError, TokenRequest};
use serde_json::{Value, json};

use crate::expect::Subscriber;
use crate::server::{REQUEST, Server, request, timing};

fn token_error(code: u32) -> Value {
    json!({ "code": code, "statusCode": 401, "message": "the token is bad" })
}

#[test]
fn a_token_request_is_sent_unchanged() {
    let server = Server::start();
    let _subscriber = Subscriber::connected(server.config());

    let exchange = &server.seen("token")[0];
    assert_eq!(exchange["url"], "/keys/app%2Ekey%3Ax/requestToken");
    assert_eq!(exchange["version"], "5");
    assert_eq!(exchange["body"], REQUEST);
}

#[test]
fn a_chunked_token_response_is_accepted() {
    let server = Server::start();
    server.set(json!({ "chunked": true }));

    Subscriber::connected(server.config());
}

#[test]
fn a_token_is_renewed_while_the_connection_stays() {
    let server = Server::start();
    server.set(json!({ "tokenLife": 400 }));
    let subscriber = Subscriber::connected(server.config());

    server.wait("auth", 2);
    server.say("a");

    subscriber.expect("a");
    assert_eq!(server.count("upgrade"), 1);
    assert_eq!(server.count("attach"), 1);
    assert!(server.count("token") >= 3);
}

#[test]
fn messages_are_delivered_while_a_token_is_fetched() {
    let server = Server::start();
    let (started, is_started) = crossbeam_channel::bounded(9);
    let (release, is_released) = crossbeam_channel::bounded::<()>(9);
    release.send(()).unwrap();
    let config = server.config_with(move || {
        started.send(()).unwrap();
        // Ends, too, when the test does.
        let _ = is_released.recv();
        request()
    });
    let subscriber = Subscriber::connected(config);
    is_started.recv().unwrap();

    server.send(json!({ "action": 17 }));
    is_started.recv().unwrap();
    server.say("a");
    subscriber.expect("a");
    release.send(()).unwrap();

    server.wait("auth", 1);
}

#[test]
fn a_server_that_asks_for_another_token_gets_one() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.send(json!({ "action": 17 }));
    server.wait("auth", 1);
    server.say("a");

    subscriber.expect("a");
    assert_eq!(server.seen("auth")[0]["good"], true);
}

#[test]
fn clocks_that_differ_by_days_do_not_matter() {
    for day in [-86_400_000_i64, 86_400_000] {
        let server = Server::start();
        server.set(json!({ "clock": day }));
        let subscriber = Subscriber::connected(server.config());
        server.say("a");

        subscriber.expect("a");
        assert_eq!((server.count("token"), server.count("auth")), (1, 0));
    }
}

#[test]
fn an_expired_token_is_replaced_and_the_channel_continues() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    server.command(&json!({ "op": "revoke" }));
    server.send(json!({ "action": 6, "error": token_error(40142) }));
    server.say("b");

    subscriber.expect_disconnected();
    subscriber.expect_connected();
    subscriber.expect("b");
    assert_eq!(server.count("token"), 2);
}

#[test]
fn a_token_that_is_refused_at_once_is_replaced() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());

    server.command(&json!({ "op": "revoke" }));
    server.drop_all("destroy");

    subscriber.expect_disconnected();
    subscriber.expect_connected();
    assert_eq!((server.count("token"), server.count("upgrade")), (2, 3));
}

#[test]
fn every_token_error_renews_the_token_and_none_is_final() {
    let server = Server::start();
    server.set(json!({ "greeting": { "action": 9, "error": token_error(40149) } }));
    let subscriber = Subscriber::start(server.config());

    server.wait("token", 5);
    server.set(json!({ "greeting": null }));

    subscriber.expect_disconnected();
    subscriber.expect_connected();
}

#[test]
fn a_callback_that_denies_a_token_is_final() {
    let server = Server::start();
    let config = server.config_with(|| Err(TokenError::Refused { source: "HTTP 403".into() }));

    let failure = Subscriber::start(config).expect_failed();

    assert_eq!(
        failure.message,
        "cannot get a token request: the source of token requests refuses: HTTP 403"
    );
    assert!(failure.remedy.contains("allow this client"), "{}", failure.remedy);
}

#[test]
fn a_callback_that_denies_a_renewal_is_final() {
    let server = Server::start();
    let calls = AtomicU32::new(0);
    let subscriber = Subscriber::connected(server.config_with(move || {
        if calls.fetch_add(1, Ordering::Relaxed) > 0 {
            return Err(TokenError::Refused { source: "HTTP 403".into() });
        }
        request()
    }));

    server.send(json!({ "action": 17 }));

    subscriber.expect_failed();
}

#[test]
fn a_failing_callback_is_called_again() {
    let server = Server::start();
    let calls = AtomicU32::new(0);
    let config = server.config_with(move || match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Err(TokenError::Unavailable { source: "no route".into() }),
        1 => TokenRequest::from_json(b"<html>"),
        2 => panic!("on purpose"),
        _ => request(),
    });

    let subscriber = Subscriber::start(config);

    assert!(subscriber.expect_disconnected().ends_with("no route"));
    subscriber.expect_connected();
}

#[test]
fn a_renewal_that_fails_is_tried_again_and_the_connection_stays() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.set(json!({ "tokenReply": { "status": 500, "body": {} } }));

    server.send(json!({ "action": 17 }));
    server.wait("token", 4);
    server.set(json!({ "tokenReply": null }));
    server.wait("auth", 1);
    server.say("a");

    subscriber.expect("a");
    assert_eq!(server.count("upgrade"), 1);
}

#[test]
fn an_exchange_that_is_forbidden_is_final() {
    let server = Server::start();
    let error = json!({ "code": 40300, "statusCode": 403, "message": "disabled" });
    server.set(json!({ "tokenReply": { "status": 403, "body": { "error": error } } }));

    let failure = Subscriber::start(server.config()).expect_failed();

    assert_eq!(failure.code, 40300);
    assert!(
        failure.message.ends_with("with HTTP 403, code 40300: disabled"),
        "{}",
        failure.message
    );
}

#[test]
fn an_exchange_that_fails_is_tried_again() {
    let server = Server::start();
    let error = json!({ "code": 40105, "statusCode": 401, "message": "nonce replayed" });
    server.set(json!({ "tokenReply": { "status": 401, "body": { "error": error } } }));
    let subscriber = Subscriber::start(server.config());
    server.wait("token", 3);

    server.set(json!({ "tokenReply": null }));

    assert!(subscriber.expect_disconnected().contains("code 40105: nonce replayed"));
    subscriber.expect_connected();
}

/// Records all log messages, at every level.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {} {}", record.target(), record.level(), record.args());
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

#[test]
fn no_token_is_in_any_log_event_or_debug() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOG).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    let server = Server::start();
    let mut timing = timing();
    timing.first_wait = Duration::from_millis(2);
    let config = server.config().timing(timing);
    let shown = format!("{config:?}");
    let subscriber = Subscriber::connected(config);
    let mut events: Vec<Event> = Vec::new();
    // Renewed, refused in two ways, and repeated in errors, plain and as in a URL.
    server.send(json!({ "action": 17 }));
    server.wait("auth", 1);
    let latest = server.command(&json!({ "op": "latest" }));
    let message = format!("bad {} or {}", latest[0].as_str().unwrap(), latest[1].as_str().unwrap());
    server.send(json!({ "action": 6, "error": { "code": 80003, "message": message } }));
    events.extend([subscriber.next(), subscriber.next()]);
    // The token before the renewal, too.
    let former = json!({ "code": 80003, "message": "bad app.token-1:+/secret" });
    server.send(json!({ "action": 6, "error": former }));
    events.extend([subscriber.next(), subscriber.next()]);
    server.command(&json!({ "op": "revoke" }));
    server.drop_all("destroy");
    events.extend([subscriber.next(), subscriber.next()]);
    server.send(json!({ "action": 9, "error": { "code": 40101, "message": "the end" } }));
    events.push(Event::Failed(subscriber.expect_failed()));

    let lines = LOG.0.lock().unwrap();
    assert!(lines.iter().any(|line| line.starts_with("tungstenite")), "the log is on");
    let leaks: Vec<_> = lines.iter().filter(|line| line.contains("secret")).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    let events = format!("{events:?} {shown}");
    assert!(events.contains("bad *** or ***") && !events.contains("secret"), "{events}");
}

#[test]
fn clones_of_a_configuration_share_the_callback() {
    let server = Server::start();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let config = server.config_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        request()
    });

    let _both = [Subscriber::connected(config.clone()), Subscriber::connected(config)];

    assert_eq!(calls.load(Ordering::Relaxed), 2);
}
