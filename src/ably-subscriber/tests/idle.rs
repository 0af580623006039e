//! A subscription that has nothing to do does nothing. Its thread is found by its name, so this is the
//! only test of its process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "subscription/expect.rs"]
mod expect;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "subscription/server.rs"]
mod server;

use std::fs;
use std::time::Duration;

use serde_json::json;

use expect::Subscriber;
use server::Server;

const HEARTBEATS: u64 = 20;

/// How often the subscription's thread has gone to sleep.
fn sleeps() -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{}/status", thread())).unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn thread() -> String {
    let mut tasks = fs::read_dir("/proc/self/task").unwrap();
    let is_ours = |id: &String| {
        // Others may have ended meanwhile.
        fs::read_to_string(format!("/proc/self/task/{id}/comm")).is_ok_and(|name| name == "ably\n")
    };
    tasks.find_map(|task| task.ok()?.file_name().into_string().ok().filter(is_ours)).unwrap()
}

#[test]
fn an_idle_subscription_wakes_only_for_heartbeats() {
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config());
    server.say("a");
    subscriber.expect("a");

    let before = sleeps();
    subscriber.0.recv_timeout(Duration::from_secs(1)).unwrap_err();
    let idle = sleeps();
    for _ in 0..HEARTBEATS {
        server.send(json!({ "action": 0 }));
    }
    server.say("b");
    subscriber.expect("b");
    let after = sleeps();

    // It may just have been on its way to sleep, or have waited for a lock.
    assert!(idle - before <= 1, "{} in a second without anything", idle - before);
    assert!(after - idle <= HEARTBEATS + 5, "{} for {HEARTBEATS} heartbeats", after - idle);
}
