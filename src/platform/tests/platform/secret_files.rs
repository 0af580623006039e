//! The secrets' files of the embedded platform.

use platform::{RunId, Status};
use serde_json::json;

use crate::harness::{Guest, Host, contains, refusal};
use crate::secrets::{SECRET, TELLTALE, blab, submit};

/// Where a job's secrets are.
fn file(host: &Host, run: RunId) -> std::path::PathBuf {
    host.state().join("control/secrets").join(run.to_string())
}

#[test]
fn a_secret_is_in_no_file_but_its_own_while_the_job_runs() {
    let host = Host::start();
    let guest = host.claim(submit(&host));
    blab(&guest);

    let found = contains(host.state(), TELLTALE);

    let own = host.state().join("control/secrets").join(guest.run.to_string());
    assert_eq!(found, [own.display().to_string()]);
}

#[test]
fn a_job_with_missing_secrets_fails_with_that_reason() {
    let host = Host::start();
    let run = submit(&host);
    std::fs::remove_file(file(&host, run)).unwrap();

    let refused = host.post_runner(&format!("jobs/{run}/claim"), &json!({})).refused();

    assert_eq!(refused, refusal(409, "RUN_ENDED"));
    let job = host.job(run);
    assert_eq!(job.status, Status::Failed);
    assert_eq!(job.error.unwrap(), "its secrets are gone: submit it again");
}

#[test]
fn a_job_with_malformed_secrets_fails_with_that_reason() {
    let host = Host::start();
    let source = host.source();
    let run = submit(&host);
    std::fs::write(file(&host, run), "{").unwrap();

    assert!(source.claim(run).unwrap().is_none());

    let error = host.job(run).error.unwrap();
    assert_eq!(error, "its stored secrets are malformed: submit it again");
}

#[test]
fn a_job_with_secrets_that_cannot_be_masked_fails_with_that_reason() {
    let host = Host::start();
    let run = submit(&host);
    std::fs::write(file(&host, run), json!({"KEY": "x".repeat(2 << 20)}).to_string()).unwrap();

    host.post_runner(&format!("jobs/{run}/claim"), &json!({})).refused();

    let error = host.job(run).error.unwrap();
    assert_eq!(error, "its secrets are too large to be masked in its reports");
}

#[test]
fn no_data_of_a_running_job_is_stored_once_its_secrets_are_gone() {
    let mut host = Host::start();
    let guest = host.claim(submit(&host));
    let (run, token) = (guest.run, guest.token.clone());
    std::fs::remove_file(file(&host, run)).unwrap();
    host.restart();
    let guest = Guest { host: &host, run, token, context: json!(null) };
    let gone = refusal(409, "SECRETS_GONE");

    assert_eq!(guest.events(&[0]).refused(), gone);
    assert_eq!(guest.post("telemetry", json!({"systemLog": SECRET})).refused(), gone);
    guest.post("complete", json!({"exitCode": 1, "error": SECRET})).ok();
    let error = host.job(run).error.unwrap();
    assert!(error.contains("its secrets are gone and cannot be masked in it"), "{error}");
    assert_eq!(contains(host.state(), TELLTALE), [""; 0]);
}
