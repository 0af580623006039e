//! What is told about a job.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Host, refusal};

#[test]
fn reports_are_kept_in_order_and_may_come_after_the_end() {
    let host = Host::start();
    let guest = host.running();
    let first = guest.post("telemetry", json!({"systemLog": "one\n"})).ok();
    guest.complete(0).ok();
    guest.post("telemetry", json!({"metrics": [{"cpu": 1}], "unknown": 1})).ok();

    let page = host.client().telemetry(guest.run, 0, Duration::ZERO).unwrap();

    assert_eq!(first, json!({"success": true, "id": "1"}));
    let seen: Vec<_> = page.items.into_iter().map(|report| json!(report.content)).collect();
    assert_eq!(seen, [json!({"systemLog": "one\n"}), json!({"metrics": [{"cpu": 1}]})]);
    assert!(page.is_last);
}

#[test]
fn reports_of_the_wrong_form_are_refused() {
    let host = Host::start();
    let guest = host.running();

    assert_eq!(guest.post("telemetry", json!({"metrics": 1})).status, 400);
    assert_eq!(guest.post("telemetry", json!({"systemLog": [1]})).status, 400);
    let many = vec![json!({}); 1001];
    let refused = guest.post("telemetry", json!({"networkLogs": many})).refused();
    assert_eq!(refused, refusal(413, "TOO_LARGE"));
}

#[test]
fn the_firewalls_credentials_are_not_configured() {
    let host = Host::start();
    let guest = host.running();

    let refused = guest.post("firewall/auth", json!({"encryptedSecrets": "", "authHeaders": {}}));

    assert_eq!(refused.refused(), refusal(424, "NOT_CONFIGURED"));
}
