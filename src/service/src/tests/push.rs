//! The service with a platform that pushes its jobs through a server with Ably's own codec.

use std::sync::Arc;

use ably_subscriber::Hosts;
use guest_test::{Reply, Server as Platform};
use sandbox::fake::{Factory, Manner};
use serde_json::json;

use self::server::{REQUEST, Server};
use super::api::source_with;
use super::{Fixture, RunningService, successful, waiting};
use crate::identity::RunnerIdentity;

#[path = "../../../ably-subscriber/tests/subscription/server.rs"]
#[allow(dead_code, reason = "the subscriber's tests use the rest")]
pub(crate) mod server;

const RUN: &str = "01234567-89ab-4def-8123-456789abcdef";

/// A platform whose polls return no job, and a runner that has subscribed to its pushes.
struct PushFixture {
    platform: Platform,
    realtime: Server,
    service: RunningService,
    runner: tempfile::TempDir,
    _bench: Fixture,
}

impl PushFixture {
    fn start(factory: &Arc<Factory>) -> Self {
        let platform = Platform::start(|request| match request.target() {
            "/api/runners/realtime/token" => Reply::bytes(REQUEST),
            target if target.ends_with("/claim") => Reply::json(&json!({
                "runId": RUN, "sandboxToken": "t", "prompt": "x", "cliAgentType": "claude-code",
            })),
            _ => Reply::json(&json!({"success": true})),
        });
        let realtime = Server::start();
        let fixture = Fixture::new();
        let runner = tempfile::tempdir().unwrap();
        let hosts = Hosts::new(&realtime.address(), &realtime.address()).unwrap();
        let source = source_with(&runner, &fixture, &platform.url(), "runner's", Some(hosts));
        let service = fixture.start_with(source, factory);
        realtime.wait("attach", 1);
        Self { platform, realtime, service, runner, _bench: fixture }
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
fn a_pushed_job_is_claimed_without_a_poll() {
    let pushing = PushFixture::start(&Arc::new(successful().factory()));
    pushing.publish("job", &json!({"runId": RUN, "unknown": 1}));

    let claim = pushing.wait_for("/claim").json();
    let completion = pushing.wait_for("/complete").json();

    assert_eq!(claim["telemetry"]["discoverySource"], "ably");
    assert_eq!(completion["exitCode"], 0);
    let token = pushing.wait_for("/realtime/token");
    assert_eq!(token.json()["group"], "local/default");
    let attach = &pushing.realtime.seen("attach")[0];
    assert_eq!(attach["frame"]["channel"], "runner-group:local/default");
    pushing.service.shut_down();
}

#[test]
fn a_job_pushed_to_this_runner_is_claimed_and_one_for_another_is_polled_for() {
    let pushing = PushFixture::start(&Arc::new(successful().factory()));
    let own_id = RunnerIdentity::next(pushing.runner.path()).unwrap().id;
    let is_deferred = |request: &guest_test::Request| {
        request.target() == "/api/runners/poll"
            && request.json()["telemetry"]["pollReason"] == "deferred"
    };
    let is_claim = |request: &guest_test::Request| request.target().ends_with("/claim");

    pushing.publish("job", &json!({"runId": RUN, "targetRunnerId": "another"}));
    pushing.platform.wait_for(|requests| requests.iter().any(is_deferred));
    assert!(!pushing.platform.requests().iter().any(is_claim));
    pushing.publish("job", &json!({"runId": RUN, "targetRunnerId": own_id}));

    pushing.wait_for("/complete");
    pushing.service.shut_down();
}

#[test]
fn a_pushed_cancellation_is_applied_and_invalid_pushes_are_ignored() {
    let (factory, started) = waiting(Manner::Polite);
    let pushing = PushFixture::start(&factory);
    pushing.publish("job", &json!({"runId": "../../x"}));
    pushing.publish("cancel", &json!([]));
    pushing.publish("job", &json!({"runId": RUN}));
    started.recv().unwrap();

    pushing.publish("cancel", &json!({"runId": RUN}));

    let completion = pushing.wait_for("/complete").json();
    assert_eq!(completion["error"], "the job was cancelled");
    pushing.service.shut_down();
}
