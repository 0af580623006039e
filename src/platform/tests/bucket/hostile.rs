//! A store that misbehaves while a platform uses it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest_test::{Ending, Server};
use platform::{BucketConfig, BucketCredentials, BucketStyle};

use crate::checkpoints::checkpoint;
use crate::harness::{Guest, Host, Reply, refusal, sha256};
use crate::store::in_bucket;

/// How the store behaves.
const WELL: u8 = 0;
const SLOW_DOWN: u8 = 1;
const DENY: u8 = 2;
const CUT: u8 = 3;
const OTHER: u8 = 4;
const ENDLESS: u8 = 5;

const HISTORY: &[u8] = b"{\"a\":1}\n";

/// A store in which every object is [`HISTORY`], and a platform that uses it. `copying` is called before each
/// copy.
fn platform(copying: impl Fn() + Send + Sync + 'static) -> (Host, Server, Arc<AtomicU8>) {
    let mode = Arc::new(AtomicU8::new(WELL));
    let now = Arc::clone(&mode);
    let server = Server::start(move |request| {
        if request.header("x-amz-copy-source").is_some() {
            copying();
        }
        let error =
            |code: &str| guest_test::Reply::bytes(format!("<Error><Code>{code}</Code></Error>"));
        let object = guest_test::Reply::bytes(HISTORY).with("etag", "\"e\"");
        let is_read = request.method == "GET" && !request.path.contains("list-type");
        match (now.load(Ordering::Relaxed), request.method.as_str()) {
            (SLOW_DOWN, _) => error("SlowDown").with_status(503),
            (DENY, _) => error("AccessDenied").with_status(403),
            (CUT, _) if is_read => object.ending(Ending::CutAfter(3)),
            (OTHER, _) if is_read => guest_test::Reply::bytes("[\"b\"]:1\n"),
            (ENDLESS, "PUT") => guest_test::Reply::bytes(vec![b'x'; 5 << 20]),
            (_, "PUT") => {
                guest_test::Reply::bytes("<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
            }
            (_, "GET") if !is_read || request.path.contains("uploads=") => {
                guest_test::Reply::bytes("<List></List>")
            }
            (_, "DELETE") => guest_test::Reply::status(204),
            _ => object,
        }
    });
    let bucket = BucketConfig {
        endpoint: server.url(),
        region: "us-east-1".into(),
        bucket: "jobs".into(),
        style: BucketStyle::Path,
        ca_file: None,
        credentials: BucketCredentials::new("AK", "the-secret"),
    };
    let host = Host::with(|config| config.content = in_bucket(bucket, String::new()));
    (host, server, mode)
}

/// Stores a checkpoint with [`HISTORY`].
fn named(guest: &Guest<'_>) -> Reply {
    let body = serde_json::json!({"cliAgentType": "claude-code", "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": sha256(HISTORY)});
    guest.post("checkpoints", body)
}

#[test]
fn a_prune_during_a_copy_either_leaves_it_or_has_it_repeated() {
    let (copying, begun) = channel();
    let (go_on, wait) = channel();
    let channels = Mutex::new((copying, wait));
    let (host, _server, _mode) = platform(move || {
        let channels = channels.lock().unwrap();
        channels.0.send(()).unwrap();
        channels.1.recv().unwrap();
    });
    let guest = host.running();
    let named_during = |keep| {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| named(&guest));
            begun.recv().unwrap();
            host.client().prune(keep).unwrap();
            go_on.send(()).unwrap();
            call.join().unwrap()
        })
    };

    let repeated = named_during(Duration::ZERO);
    let left = named_during(Duration::from_secs(3600));

    assert_eq!(repeated.refused(), refusal(503, "BUSY"));
    left.ok();
    assert!(host.client().checkpoint(guest.run).is_ok());
}

#[test]
fn a_checkpoint_is_refused_for_now_until_the_store_gives_the_history_that_was_named() {
    let (host, _server, mode) = platform(|| {});
    let guest = host.running();
    let named = || named(&guest);
    let when = |behaviour| {
        mode.store(behaviour, Ordering::Relaxed);
        named().refused()
    };
    let unavailable = refusal(503, "STORE_UNAVAILABLE");

    assert_eq!(when(SLOW_DOWN), unavailable);
    assert_eq!(when(CUT), unavailable);
    assert_eq!(when(ENDLESS), unavailable);
    assert_eq!(when(DENY), refusal(500, "INTERNAL"));
    assert_eq!(when(OTHER), refusal(400, "WRONG_HASH"));
    assert!(host.client().checkpoint(guest.run).is_err());
    mode.store(WELL, Ordering::Relaxed);
    named().ok();
    assert!(checkpoint(&guest, &sha256(HISTORY), "none").status == 404);
}
