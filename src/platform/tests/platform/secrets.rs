//! A job's secrets: only where they have to be, and only as long.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once, PoisonError};

use platform::{Error, RunId, Submission};
use serde_json::json;

use crate::harness::{Guest, Host, contains};

pub(crate) const SECRET: &str = "s3cret-\"value\"\n-8c1f";
/// Its beginning, which no escaping changes.
pub(crate) const TELLTALE: &str = "s3cret-";

static LOG: Mutex<String> = Mutex::new(String::new());

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(&format!("{}\n", record.args()));
    }

    fn flush(&self) {}
}

/// Records whatever any test of this process logs.
fn record_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Recorder).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

pub(crate) fn submit(host: &Host) -> RunId {
    let submission = Submission {
        prompt: "use it".into(),
        environment: BTreeMap::from([("PLAIN".into(), "plain".into())]),
        secrets: BTreeMap::from([("KEY".into(), SECRET.into())]),
        ..Submission::default()
    };
    host.client().submit(&submission).unwrap().run_id
}

/// Says the secret wherever a guest can.
pub(crate) fn blab(guest: &Guest<'_>) {
    let text = format!("it is {SECRET}!");
    guest
        .post(
            "events",
            json!({"events": [{"sequenceNumber": 0, "type": "x", "t": [text], (SECRET): 1}]}),
        )
        .ok();
    guest.post("telemetry", json!({"systemLog": text, "metrics": [{"m": text}]})).ok();
    guest.post("events", json!({"events": [text]})).refused();
    guest.post("storages/prepare", json!({"storageName": SECRET, "files": []})).refused();
    let hash = guest.history("{}\n");
    let checkpoint = json!({"cliAgentType": "", "cliAgentSessionId": SECRET,
        "cliAgentSessionHistoryHash": hash});
    guest.post("checkpoints", checkpoint).ok();
}

#[test]
fn a_claim_has_the_secrets_as_environment_and_as_values_to_mask() {
    let host = Host::start();

    let guest = host.claim(submit(&host));

    assert_eq!(guest.context["environment"], json!({"PLAIN": "plain", "KEY": SECRET}));
    assert_eq!(guest.context["secretValues"], json!([SECRET]));
}

#[test]
fn a_secret_is_in_no_file_and_no_log_after_the_job() {
    record_log();
    let mut host = Host::start();
    let guest = host.claim(submit(&host));
    let token = guest.token.clone();
    blab(&guest);
    guest.post("complete", json!({"exitCode": 1, "error": format!("{SECRET} failed")})).ok();
    guest.post("telemetry", json!({"systemLog": SECRET})).ok();

    let during = contains(host.state(), TELLTALE);
    let tokens = contains(host.state(), &token);
    let job = host.job(guest.run);
    host.stop();

    assert_eq!(during, [""; 0]);
    assert_eq!(tokens, [""; 0]);
    assert_eq!(contains(host.state(), TELLTALE), [""; 0]);
    assert_eq!(job.error.unwrap(), "*** failed");
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(log.contains("job ended"));
    assert!(!log.contains(TELLTALE) && !log.contains(&token));
}

#[test]
fn late_telemetry_is_rejected_once_its_mask_is_gone() {
    let mut host = Host::start();
    let guest = host.claim(submit(&host));
    let (run, token) = (guest.run, guest.token.clone());
    guest.complete(0).ok();
    host.restart();

    let late = Guest { host: &host, run, token, context: json!(null) };

    assert_eq!(late.post("telemetry", json!({"systemLog": SECRET})).status, 409);
}

#[test]
fn a_secret_survives_a_crash_until_its_job_has_ended() {
    let mut host = Host::start();
    let run = submit(&host);
    host.restart();

    let guest = host.claim(run);
    assert_eq!(guest.context["secretValues"], json!([SECRET]));
    host.client().cancel(run).unwrap();
    guest.complete(1).ok();

    assert_eq!(contains(host.state(), TELLTALE), [""; 0]);
}

#[test]
fn secrets_of_a_rejected_submission_are_not_stored() {
    let host = Host::start();
    let submission = Submission {
        prompt: "x".into(),
        secrets: BTreeMap::from([("KEY".into(), SECRET.into())]),
        resume: Some("00000000-0000-4000-8000-000000000000".parse().unwrap()),
        ..Submission::default()
    };

    host.client().submit(&submission).unwrap_err();

    assert_eq!(contains(host.state(), TELLTALE), [""; 0]);
}

#[test]
fn debug_output_of_a_submission_has_no_values() {
    let submission = Submission {
        prompt: "p".into(),
        secrets: BTreeMap::from([("KEY".into(), SECRET.into())]),
        ..Submission::default()
    };

    let shown = format!("{submission:?}");

    assert!(shown.contains("KEY") && !shown.contains(TELLTALE));
}

#[test]
fn a_submission_with_secrets_that_cannot_be_masked_is_rejected() {
    let host = Host::start();
    let submission = Submission {
        prompt: "x".into(),
        // Each of them, and all together, would do as an environment.
        secrets: (0..11).map(|n| (format!("KEY_{n}"), "x".repeat(100 << 10))).collect(),
        ..Submission::default()
    };

    let refused = host.client().submit(&submission).unwrap_err();

    assert!(matches!(refused, Error::Answered { status: 413, .. }), "{refused}");
}

#[test]
fn a_secret_is_masked_in_numbers_and_line_by_line() {
    let host = Host::start();
    let secrets = [("PIN", "20251234"), ("KEY", "first-line-of-it\nsecond-line-of-it\n")];
    let submission = Submission {
        prompt: "x".into(),
        secrets: secrets.map(|(name, value)| (name.into(), value.into())).into(),
        ..Submission::default()
    };
    let guest = host.claim(host.client().submit(&submission).unwrap().run_id);
    let event = json!({"sequenceNumber": 0, "pin": 20251234, "line": "<second-line-of-it>"});
    guest.post("events", json!({"events": [event]})).ok();

    let page = host.client().events(guest.run, 0, std::time::Duration::ZERO).unwrap();

    let stored = json!({"sequenceNumber": 0, "pin": "***", "line": "<***>"});
    assert_eq!(page.items[0].event.get(), stored.to_string());
}
