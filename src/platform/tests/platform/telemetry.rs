//! What is told about a job.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Host, refusal};

#[test]
fn reports_are_stored_in_order_also_after_the_end() {
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
    let half = vec![json!({}); 501];
    let refused = guest.post("telemetry", json!({"networkLogs": half, "metrics": half})).refused();
    assert_eq!(refused, refusal(413, "TOO_LARGE"));
}

#[test]
fn a_report_that_other_parsers_reject_is_rejected() {
    let host = Host::start();
    let guest = host.running();
    let report = |entry: &str| {
        let body = format!(r#"{{"runId":"{}","metrics":[{entry}]}}"#, guest.run);
        let headers = format!("Authorization: Bearer {}\r\n", guest.token);
        host.send("POST", "/api/webhooks/agent/telemetry", &headers, body.as_bytes()).status
    };

    assert_eq!(report("1e999"), 400);
    assert_eq!(report(r#""\ud800""#), 400);
    assert_eq!(report(&format!("{}{}", "[".repeat(120), "]".repeat(120))), 400);
    assert_eq!(report("1"), 200);
    assert_eq!(host.client().telemetry(guest.run, 0, Duration::ZERO).unwrap().items.len(), 1);
}

#[test]
fn the_firewalls_credentials_are_not_configured() {
    let host = Host::start();
    let guest = host.running();

    let refused = guest.post("firewall/auth", json!({"encryptedSecrets": "", "authHeaders": {}}));

    assert_eq!(refused.refused(), refusal(424, "NOT_CONFIGURED"));
}
