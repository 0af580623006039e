//! The history and the call that makes a checkpoint.

use guest_test::{Ending, Reply};
use serde_json::json;

use crate::harness::Place;

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_history_is_uploaded_and_named_in_a_strict_call() {
    let place = Place::new("echo hello");
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let session = run.outcome["sessionId"].as_str().unwrap().to_owned();
    let name = place.path("work").to_str().unwrap().replace('/', "-");
    let history = place.text(&format!("home/.claude/projects/{name}/{session}.jsonl"));
    let prepare = &place.platform.bodies("checkpoints/prepare-history")[0];
    assert_eq!(prepare["encoding"], "identity");
    assert_eq!(
        (&prepare["rawSize"], &prepare["encodedSize"]),
        (&history.len().into(), &history.len().into())
    );
    let upload = &place.platform.uploads()[0];
    assert_eq!(upload.body, history.as_bytes());
    assert_eq!(upload.header("content-type"), Some("application/octet-stream"));
    assert_eq!(upload.header("authorization"), None);
    let checkpoint = &place.platform.bodies("checkpoints")[0];
    assert_eq!(
        keys(checkpoint),
        ["cliAgentSessionHistoryHash", "cliAgentSessionId", "cliAgentType", "runId"]
    );
    assert_eq!(checkpoint["cliAgentSessionHistoryHash"], prepare["hash"]);
    assert_eq!(checkpoint["cliAgentSessionId"], session);
    assert_eq!(run.outcome["checkpointId"], "c1");
}

fn with_long_history() -> Place {
    Place::with_cli(
        r#"session
        for number in {1..5000}; do echo '{"type":"assistant","text":"again and again"}'; done >> "$folder/s1.jsonl"
        say '{"type":"result"}'"#,
    )
}

#[test]
fn a_long_history_is_compressed() {
    let place = with_long_history();
    assert_eq!(place.run().code, Some(0));
    let prepare = &place.platform.bodies("checkpoints/prepare-history")[0];
    assert_eq!(prepare["encoding"], "zstd");
    let upload = &place.platform.uploads()[0];
    assert_eq!(prepare["encodedSize"], upload.body.len());
    let raw = zstd::decode_all(&upload.body[..]).unwrap();
    assert_eq!(prepare["rawSize"], raw.len());
    assert!(raw.starts_with(b"{\"type\":\"user\"}\n"));
}

#[test]
fn a_platform_that_does_not_acknowledge_zstd_gets_the_history_as_it_is() {
    let place = with_long_history();
    let url = format!("{}/upload/history", place.platform.server.url());
    place.platform.answer(
        "checkpoints/prepare-history",
        Reply::json(&json!({ "existing": false, "presignedUrl": url })),
    );
    assert_eq!(place.run().code, Some(0));
    assert!(place.platform.uploads()[0].body.starts_with(b"{\"type\":\"user\"}\n"));
}

#[test]
fn a_history_that_the_platform_has_is_not_uploaded() {
    let place = Place::new("echo hello");
    place.platform.know_everything();
    assert_eq!(place.run().code, Some(0));
    assert!(place.platform.uploads().is_empty());
    assert_eq!(place.platform.calls("checkpoints").len(), 1);
}

#[test]
fn faults_of_the_platform_and_of_the_storage_are_tried_again() {
    let place = Place::new("echo hello");
    place
        .platform
        .answer("checkpoints/prepare-history", Reply::status(503).with("retry-after", "0"));
    place.platform.answer("/upload/history", Reply::status(500).with("retry-after", "0"));
    place.platform.answer("/upload/history", Reply::dropped());
    place.platform.answer("checkpoints", Reply::bytes("{}").ending(Ending::CutAfter(1)));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let uploads = place.platform.uploads();
    assert_eq!(uploads.len(), 3);
    assert_eq!(uploads[0].body, uploads[2].body);
}

#[test]
fn an_outage_of_many_attempts_costs_no_job() {
    let mut place = Place::new("echo hello > \"$PWD/file\"");
    let work = place.path("work");
    let list = json!([{ "name": "w", "mountPath": work, "storageId": "st", "versionId": "v0" }]);
    place.set("VM0_ARTIFACTS", &list.to_string());
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
    calls.iter().for_each(|call| (0..20).for_each(|_| place.platform.answer(call, outage())));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(run.outcome["checkpointId"], "c1");
    assert_eq!(place.platform.calls("checkpoints").len(), 21);
    assert_eq!(place.platform.uploads().len(), 63);
}

#[test]
fn a_success_without_a_history_is_none() {
    let run =
        Place::with_cli("say '{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}'")
            .run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "cannot make the checkpoint: there is no history of session s1");
}

#[test]
fn a_session_that_names_another_file_is_no_session() {
    for id in ["../../secret", "", "a/b"] {
        let event = json!({ "type": "system", "subtype": "init", "session_id": id });
        let run = Place::with_cli(&format!("session\nsay '{event}'")).run();
        assert_eq!(run.code, Some(1));
        assert!(run.error().contains("named no session"), "{}", run.error());
    }
}

#[test]
fn a_history_that_is_empty_or_no_jsonl_is_not_kept() {
    for content in ["", "not json"] {
        let place =
            Place::with_cli(&format!("session\nprintf '%s' '{content}' > \"$folder/s1.jsonl\""));
        let run = place.run();
        assert_eq!(run.code, Some(1));
        assert!(run.error().contains("is empty or no JSONL"), "{}", run.error());
        assert!(place.platform.uploads().is_empty());
    }
}

#[test]
fn a_refusal_is_an_error_without_the_presigned_url() {
    let place = Place::new("echo hello");
    place.platform.answer("/upload/history", Reply::status(403));
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.error(),
        "cannot make the checkpoint: PUT to 127.0.0.1 was answered with HTTP 403"
    );
    let bodies = place.platform.bodies("telemetry");
    let told = bodies.iter().map(ToString::to_string).collect::<String>();
    let log = place.text("home/.vm0/guest-agent/runs/run-1/system.log");
    assert!(![told, log, run.stderr].iter().any(|text| text.contains("presigned-secret")));
}

#[test]
fn a_history_whose_end_is_cut_is_kept_up_to_its_last_whole_record() {
    let content = "{\"type\":\"user\"}\\n{\"cut";
    let place = Place::with_cli(&format!("session\nprintf '{content}' > \"$folder/s1.jsonl\""));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(place.platform.uploads()[0].body, b"{\"type\":\"user\"}\n");
    let told = place.platform.bodies("warnings")[0]["warnings"][0].to_string();
    assert!(told.contains("kept without its end, after 16 bytes"), "{told}");
}

#[test]
fn a_platform_that_takes_no_warnings_costs_no_success() {
    let place = Place::with_cli("session\nprintf '{}\\n{' > \"$folder/s1.jsonl\"");
    place.platform.answer("warnings", Reply::refusal(404, "no such call"));
    assert_eq!(place.run().code, Some(0));
}
