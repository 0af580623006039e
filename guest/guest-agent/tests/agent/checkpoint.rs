//! The history and the call that makes a checkpoint.

use guest_test::{Ending, Reply};
use serde_json::json;

use crate::harness::Fixture;

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_history_is_uploaded_and_named_in_a_strict_call() {
    let fixture = Fixture::new("echo hello");
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let session = run.outcome["sessionId"].as_str().unwrap().to_owned();
    let name = fixture.path("work").to_str().unwrap().replace('/', "-");
    let history = fixture.text(&format!("home/.claude/projects/{name}/{session}.jsonl"));
    let prepare = &fixture.platform.bodies("checkpoints/prepare-history")[0];
    assert_eq!(prepare["encoding"], "identity");
    assert_eq!(
        (&prepare["rawSize"], &prepare["encodedSize"]),
        (&history.len().into(), &history.len().into())
    );
    let upload = &fixture.platform.uploads()[0];
    assert_eq!(upload.body, history.as_bytes());
    assert_eq!(upload.header("content-type"), Some("application/octet-stream"));
    assert_eq!(upload.header("authorization"), None);
    let checkpoint = &fixture.platform.bodies("checkpoints")[0];
    assert_eq!(
        keys(checkpoint),
        ["cliAgentSessionHistoryHash", "cliAgentSessionId", "cliAgentType", "runId"]
    );
    assert_eq!(checkpoint["cliAgentSessionHistoryHash"], prepare["hash"]);
    assert_eq!(checkpoint["cliAgentSessionId"], session);
    assert_eq!(run.outcome["checkpointId"], "c1");
}

fn with_long_history() -> Fixture {
    Fixture::with_cli(
        r#"session
        for number in {1..5000}; do echo '{"type":"assistant","text":"again and again"}'; done >> "$folder/s1.jsonl"
        say '{"type":"result"}'"#,
    )
}

#[test]
fn a_long_history_is_compressed() {
    let fixture = with_long_history();
    assert_eq!(fixture.run().code, Some(0));
    let prepare = &fixture.platform.bodies("checkpoints/prepare-history")[0];
    assert_eq!(prepare["encoding"], "zstd");
    let upload = &fixture.platform.uploads()[0];
    assert_eq!(prepare["encodedSize"], upload.body.len());
    let raw = zstd::decode_all(&upload.body[..]).unwrap();
    assert_eq!(prepare["rawSize"], raw.len());
    assert!(raw.starts_with(b"{\"type\":\"user\"}\n"));
}

#[test]
fn a_platform_that_does_not_acknowledge_zstd_gets_the_history_uncompressed() {
    let fixture = with_long_history();
    let url = format!("{}/upload/history", fixture.platform.server.url());
    fixture.platform.answer(
        "checkpoints/prepare-history",
        Reply::json(&json!({ "existing": false, "presignedUrl": url })),
    );
    assert_eq!(fixture.run().code, Some(0));
    assert!(fixture.platform.uploads()[0].body.starts_with(b"{\"type\":\"user\"}\n"));
}

#[test]
fn a_history_that_the_platform_has_is_not_uploaded() {
    let fixture = Fixture::new("echo hello");
    fixture.platform.pretend_to_have_all();
    assert_eq!(fixture.run().code, Some(0));
    assert!(fixture.platform.uploads().is_empty());
    assert_eq!(fixture.platform.calls("checkpoints").len(), 1);
}

#[test]
fn errors_of_the_platform_and_of_the_storage_are_retried() {
    let fixture = Fixture::new("echo hello");
    fixture
        .platform
        .answer("checkpoints/prepare-history", Reply::status(503).with("retry-after", "0"));
    fixture.platform.answer("/upload/history", Reply::status(500).with("retry-after", "0"));
    fixture.platform.answer("/upload/history", Reply::dropped());
    fixture.platform.answer("checkpoints", Reply::bytes("{}").ending(Ending::CutAfter(1)));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let uploads = fixture.platform.uploads();
    assert_eq!(uploads.len(), 3);
    assert_eq!(uploads[0].body, uploads[2].body);
}

#[test]
fn a_job_survives_an_outage_of_many_attempts() {
    let mut fixture = Fixture::new("echo hello > \"$PWD/file\"");
    let work = fixture.path("work");
    let list = json!([{ "name": "w", "mountPath": work, "storageId": "st", "versionId": "v0" }]);
    fixture.set("VM0_ARTIFACTS", &list.to_string());
    let calls = [
        "checkpoints/prepare-history",
        "/upload/history",
        "storages/prepare",
        "/upload/st/archive",
        "/upload/st/manifest",
        "storages/commit",
        "checkpoints",
    ];
    let outage = || Reply::status(500).with("retry-after", "0");
    calls.iter().for_each(|call| (0..20).for_each(|_| fixture.platform.answer(call, outage())));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(run.outcome["checkpointId"], "c1");
    assert_eq!(fixture.platform.calls("checkpoints").len(), 21);
    assert_eq!(fixture.platform.uploads().len(), 63);
}

#[test]
fn a_run_without_a_history_fails() {
    let run =
        Fixture::with_cli("say '{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}'")
            .run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "cannot make the checkpoint: there is no history of session s1");
}

#[test]
fn a_session_id_that_is_a_path_is_rejected() {
    for id in ["../../secret", "", "a/b"] {
        let event = json!({ "type": "system", "subtype": "init", "session_id": id });
        let run = Fixture::with_cli(&format!("session\nsay '{event}'")).run();
        assert_eq!(run.code, Some(1));
        assert!(run.error().contains("named no session"), "{}", run.error());
    }
}

#[test]
fn a_history_that_is_empty_or_not_jsonl_is_not_saved() {
    for content in ["", "not json"] {
        let fixture =
            Fixture::with_cli(&format!("session\nprintf '%s' '{content}' > \"$folder/s1.jsonl\""));
        let run = fixture.run();
        assert_eq!(run.code, Some(1));
        assert!(run.error().contains("is empty or not JSONL"), "{}", run.error());
        assert!(fixture.platform.uploads().is_empty());
    }
}

#[test]
fn the_error_of_a_rejected_upload_has_no_presigned_url() {
    let fixture = Fixture::new("echo hello");
    fixture.platform.answer("/upload/history", Reply::status(403));
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.error(),
        "cannot make the checkpoint: PUT to 127.0.0.1 was answered with HTTP 403"
    );
    let bodies = fixture.platform.bodies("telemetry");
    let sent = bodies.iter().map(ToString::to_string).collect::<String>();
    let log = fixture.text("home/.vm0/guest-agent/runs/run-1/system.log");
    assert!(![sent, log, run.stderr].iter().any(|text| text.contains("presigned-secret")));
}

#[test]
fn a_truncated_history_is_saved_up_to_its_last_complete_record() {
    let content = "{\"type\":\"user\"}\\n{\"cut";
    let fixture = Fixture::with_cli(&format!("session\nprintf '{content}' > \"$folder/s1.jsonl\""));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(fixture.platform.uploads()[0].body, b"{\"type\":\"user\"}\n");
    let sent = fixture.platform.bodies("warnings")[0]["warnings"][0].to_string();
    assert!(sent.contains("saved without its end, after 16 bytes"), "{sent}");
}

#[test]
fn a_platform_without_the_warnings_call_does_not_fail_a_run() {
    let fixture = Fixture::with_cli("session\nprintf '{}\\n{' > \"$folder/s1.jsonl\"");
    fixture.platform.answer("warnings", Reply::refusal(404, "no such call"));
    assert_eq!(fixture.run().code, Some(0));
}
