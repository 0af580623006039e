//! The service with a platform that publishes its jobs, by a server with Ably's own codec.

use std::sync::Arc;

use ably_subscriber::Hosts;
use guest_test::{Reply, Server as Platform};
use sandbox::fake::{Factory, Manner};
use serde_json::json;

use self::server::{REQUEST, Server};
use super::api::source_with;
use super::{Bench, Serving, good, held};
use crate::service::identity::Identity;

#[path = "../../../../ably-subscriber/tests/subscription/server.rs"]
#[allow(dead_code, reason = "what the subscriber's tests ask of it besides")]
pub(crate) mod server;

const RUN: &str = "01234567-89ab-4def-8123-456789abcdef";

/// A platform that hands out nothing when it is polled, and a runner that is subscribed to it.
struct Pushing {
    platform: Platform,
    realtime: Server,
    serving: Serving,
    runner: tempfile::TempDir,
    _bench: Bench,
}

impl Pushing {
    fn start(factory: &Arc<Factory>) -> Self {
        let platform = Platform::start(|request| match request.target() {
            "/api/runners/realtime/token" => Reply::bytes(REQUEST),
            target if target.ends_with("/claim") => Reply::json(&json!({
                "runId": RUN, "sandboxToken": "t", "prompt": "x", "cliAgentType": "claude-code",
            })),
            _ => Reply::json(&json!({"success": true})),
        });
        let realtime = Server::start();
        let bench = Bench::new();
        let runner = tempfile::tempdir().unwrap();
        let hosts = Hosts::new(&realtime.address(), &realtime.address()).unwrap();
        let source = source_with(&runner, &bench, &platform.url(), "runner's", Some(hosts));
        let serving = bench.start_with(source, factory);
        realtime.wait("attach", 1);
        Self { platform, realtime, serving, runner, _bench: bench }
    }

    fn publish(&self, name: &str, data: &serde_json::Value) {
        self.realtime.command(&json!({
            "op": "publish",
            "messages": [{"name": name, "data": data}],
            "frame": {"channel": "runner-group:local/default"},
        }));
    }

    fn wait_for(&self, call: &str) -> guest_test::Request {
        self.platform.wait_for(|all| all.iter().any(|request| request.target().ends_with(call)));
        let all = self.platform.requests();
        all.into_iter().find(|request| request.target().ends_with(call)).unwrap()
    }
}

#[test]
fn a_job_that_is_pushed_is_claimed_without_a_poll() {
    let pushing = Pushing::start(&Arc::new(good().factory()));
    pushing.publish("job", &json!({"runId": RUN, "unknown": 1}));

    let claim = pushing.wait_for("/claim").json();
    let completion = pushing.wait_for("/complete").json();

    assert_eq!(claim["telemetry"]["discoverySource"], "ably");
    assert_eq!(completion["exitCode"], 0);
    let token = pushing.wait_for("/realtime/token");
    assert_eq!(token.json()["group"], "local/default");
    let attach = &pushing.realtime.seen("attach")[0];
    assert_eq!(attach["frame"]["channel"], "runner-group:local/default");
    pushing.serving.leave();
}

#[test]
fn a_job_for_this_very_runner_is_claimed_and_one_for_another_polled_for() {
    let pushing = Pushing::start(&Arc::new(good().factory()));
    let us = Identity::next(pushing.runner.path()).unwrap().id;
    let is_deferred = |request: &guest_test::Request| {
        request.target() == "/api/runners/poll"
            && request.json()["telemetry"]["pollReason"] == "deferred"
    };
    let is_claim = |request: &guest_test::Request| request.target().ends_with("/claim");

    pushing.publish("job", &json!({"runId": RUN, "targetRunnerId": "another"}));
    pushing.platform.wait_for(|requests| requests.iter().any(is_deferred));
    assert!(!pushing.platform.requests().iter().any(is_claim));
    pushing.publish("job", &json!({"runId": RUN, "targetRunnerId": us}));

    pushing.wait_for("/complete");
    pushing.serving.leave();
}

#[test]
fn a_cancellation_is_pushed_too_and_nonsense_is_passed_over() {
    let (factory, begun) = held(Manner::Polite);
    let pushing = Pushing::start(&factory);
    pushing.publish("job", &json!({"runId": "../../x"}));
    pushing.publish("cancel", &json!([]));
    pushing.publish("job", &json!({"runId": RUN}));
    begun.recv().unwrap();

    pushing.publish("cancel", &json!({"runId": RUN}));

    let completion = pushing.wait_for("/complete").json();
    assert_eq!(completion["error"], "the job was cancelled");
    pushing.serving.leave();
}
