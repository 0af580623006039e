//! Checkpoints, and jobs that go on from them.

use platform::{Error, Submission};
use serde_json::json;

use crate::harness::{Guest, Host, refusal, sha256};
use crate::storages::{snapshot, upload, with_artifact};

/// Stores a checkpoint with a session `s-1`.
pub(crate) fn checkpoint(guest: &Guest<'_>, history: &str, version: &str) -> crate::harness::Reply {
    guest.post(
        "checkpoints",
        json!({
            "cliAgentType": "claude-code",
            "cliAgentSessionId": "s-1",
            "cliAgentSessionHistoryHash": history,
            "artifactSnapshots": [{"name": "work", "version": version, "mountPath": "/w"}],
        }),
    )
}

pub(crate) fn announce(text: &[u8], encoded: &[u8], encoding: &str) -> serde_json::Value {
    json!({"hash": sha256(text), "rawSize": text.len(), "encodedSize": encoded.len(),
        "encoding": encoding})
}

#[test]
fn a_job_resumes_the_session_and_artifacts_of_another() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let history = guest.history("{\"a\":1}\n");
    let version = snapshot(&guest, &mount, "new");
    let id = checkpoint(&guest, &history, &version).ok()["checkpointId"].clone();
    guest.complete(0).ok();

    let resume =
        Submission { prompt: "go on".into(), resume: Some(guest.run), ..Submission::default() };
    let run = host.client().submit(&resume).unwrap().run_id;
    let next = host.claim(run);

    let session = &next.context["resumeSession"];
    assert_eq!(session["sessionId"], "s-1");
    assert_eq!(session["historyRef"]["hash"], json!(history));
    assert_eq!(session["historyRef"]["encoding"], "identity");
    assert_eq!(host.get(&session["historyRef"]["url"], "").body, b"{\"a\":1}\n");
    assert_eq!(next.context["checkpointId"], id);
    // By which a runner finds the session's VM again.
    assert_eq!(next.context["reuseKey"], json!(guest.run));
    let artifact = &next.context["storageManifest"]["storageMounts"][0];
    assert_eq!(artifact["versionId"], json!(version));
    assert_eq!(host.get(&artifact["archiveUrl"], "").body, b"new");
}

#[test]
fn an_artifact_of_the_submission_replaces_that_of_the_checkpoint() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let history = guest.history("{}\n");
    checkpoint(&guest, &history, &mount.version_id).ok();
    guest.complete(0).ok();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("b"), "x").unwrap();
    let new = upload(&host, folder.path());

    let resume = Submission {
        prompt: "go on".into(),
        resume: Some(guest.run),
        artifacts: vec![new.clone()],
        ..Submission::default()
    };
    let next = host.claim(host.client().submit(&resume).unwrap().run_id);

    let mounts = next.context["storageManifest"]["storageMounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0]["versionId"], json!(new.version_id));
}

#[test]
fn the_operator_sees_a_checkpoint_and_copies_its_artifact() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let history = guest.history("{}\n");
    let version = snapshot(&guest, &mount, "new");
    checkpoint(&guest, &history, &version).ok();

    let seen = host.client().checkpoint(guest.run).unwrap();
    let mut archive = Vec::new();
    host.client().artifact(guest.run, "work", &mut archive).unwrap();
    let absent = host.client().artifact(guest.run, "Ünsinn/..", &mut archive);

    assert_eq!((seen.session_id.as_deref(), seen.history_size), (Some("s-1"), Some(3)));
    assert_eq!(seen.artifacts[0].version_id, version);
    assert_eq!(archive, b"new");
    assert!(matches!(absent, Err(Error::Answered { status: 404, .. })));
}

#[test]
fn a_checkpoint_sent_twice_is_one() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let history = guest.history("{}\n");

    let first = checkpoint(&guest, &history, &mount.version_id).ok();
    let second = checkpoint(&guest, &history, &mount.version_id).ok();

    assert_eq!(first, second);
}

#[test]
fn a_checkpoint_without_its_uploads_is_rejected() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let absent = sha256(b"absent");

    let no_history = checkpoint(&guest, &absent, &mount.version_id);
    let history = guest.history("{}\n");
    let no_version = checkpoint(&guest, &history, &absent);

    assert_eq!(no_history.refused(), refusal(409, "OBJECTS_MISSING"));
    assert_eq!(no_version.refused(), refusal(404, "NOT_FOUND"));
    assert!(host.client().checkpoint(guest.run).is_err());
}

#[test]
fn a_checkpoint_with_unknown_fields_is_rejected() {
    let host = Host::start();
    let guest = host.running();
    let history = guest.history("{}\n");

    let body = json!({"cliAgentType": "claude-code", "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": history, "extra": 1});

    assert_eq!(guest.post("checkpoints", body).refused(), refusal(400, "BAD_REQUEST"));
}

#[test]
fn a_job_without_a_checkpoint_cannot_be_resumed() {
    let host = Host::start();
    let run = host.submit("x");
    let resume = Submission { prompt: "y".into(), resume: Some(run), ..Submission::default() };

    let refused = host.client().submit(&resume);

    assert!(matches!(refused, Err(Error::Answered { status: 404, .. })));
}

#[test]
fn an_unknown_encoding_is_not_acknowledged() {
    let host = Host::start();
    let guest = host.running();

    let prepared =
        guest.post("checkpoints/prepare-history", announce(b"{}\n", b"x", "brotli")).ok();

    assert_eq!(prepared["encoding"], "identity");
    host.put(&prepared["presignedUrl"], b"{}\n").ok();
}

/// Stores what a job that fails could keep.
fn partial(guest: &Guest<'_>, history: Option<&str>, version: &str) -> crate::harness::Reply {
    let session = history.map(|hash| json!({"id": "s-1", "historyHash": hash}));
    guest.post(
        "checkpoints/partial",
        json!({
            "cliAgentType": "claude-code",
            "session": session,
            "artifactSnapshots": [{"name": "work", "version": version, "mountPath": "/w"}],
        }),
    )
}

#[test]
fn a_partial_checkpoint_of_a_failed_job_can_be_resumed() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let accepted = guest.post("checkpoints/partial/prepare", json!({})).ok();
    let history = guest.history("{\"a\":1}\n");
    let version = snapshot(&guest, &mount, "half done");
    partial(&guest, Some(&history), &version).ok();
    guest.complete(3).ok();

    let job = host.job(guest.run);
    let seen = host.client().checkpoint(guest.run).unwrap();
    let mut archive = Vec::new();
    host.client().artifact(guest.run, "work", &mut archive).unwrap();
    let resume =
        Submission { prompt: "go on".into(), resume: Some(guest.run), ..Submission::default() };
    let next = host.claim(host.client().submit(&resume).unwrap().run_id);

    assert_eq!(accepted, json!({"accepted": true}));
    assert_eq!((job.status, job.checkpoint_partial), (platform::Status::Failed, true));
    assert_eq!(serde_json::to_value(&job).unwrap()["checkpointPartial"], true);
    assert!(seen.partial);
    assert_eq!(archive, b"half done");
    assert_eq!(next.context["resumeSession"]["sessionId"], "s-1");
}

#[test]
fn a_partial_checkpoint_without_a_session_has_its_artifacts_and_cannot_be_resumed() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let version = snapshot(&guest, &mount, "half done");
    partial(&guest, None, &version).ok();
    guest.complete(137).ok();
    let resume =
        Submission { prompt: "go on".into(), resume: Some(guest.run), ..Submission::default() };

    let refused = host.client().submit(&resume).unwrap_err();
    let mut archive = Vec::new();
    host.client().artifact(guest.run, "work", &mut archive).unwrap();
    host.client().prune(std::time::Duration::ZERO).unwrap();

    assert!(refused.to_string().contains("has no session to resume"), "{refused}");
    assert_eq!(archive, b"half done");
}

#[test]
fn a_partial_checkpoint_never_replaces_a_complete_one() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let history = guest.history("{}\n");

    let early = partial(&guest, None, &mount.version_id).ok();
    let whole = checkpoint(&guest, &history, &mount.version_id).ok();
    let late = partial(&guest, None, &mount.version_id).ok();

    assert_eq!((&early, &late), (&whole, &whole));
    let seen = host.client().checkpoint(guest.run).unwrap();
    assert_eq!((seen.partial, seen.session_id.as_deref()), (false, Some("s-1")));
}

#[test]
fn warnings_are_shown_with_the_job_masked_and_in_order() {
    let host = Host::start();
    let secrets =
        std::collections::BTreeMap::from([("S".to_owned(), "hunter2-hunter2".to_owned())]);
    let submission = Submission { prompt: "x".into(), secrets, ..Submission::default() };
    let guest = host.claim(host.client().submit(&submission).unwrap().run_id);

    let texts = json!({"warnings": ["a/hunter2-hunter2 is not kept", "the disk is full"]});
    guest.post("warnings", texts.clone()).ok();
    guest.post("warnings", texts).ok();
    guest.complete(0).ok();

    let job = host.job(guest.run);
    assert_eq!(job.warnings, ["a/*** is not kept", "the disk is full"]);
    assert_eq!(job.status, platform::Status::Completed);
}
