//! Secrets are masked wherever data leaves the process.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::harness::{Fixture, TOKEN};

const SECRET: &str = "s3cr3t/with\"quote & more";

fn with_secrets(mut fixture: Fixture) -> Fixture {
    let values = [TOKEN, SECRET, "mult\nline"].map(|secret| STANDARD.encode(secret));
    fixture.set("VM0_SECRET_VALUES", &values.join(","));
    fixture
}

#[test]
fn a_secret_is_masked_in_events_and_their_keys_stderr_errors_and_telemetry() {
    let escaped = SECRET.replace('"', "\\\"");
    let base64 = STANDARD.encode(format!("xx{SECRET}yy"));
    let url_safe = URL_SAFE_NO_PAD.encode(SECRET);
    let script = format!(
        r#"session
        say '{{"type":"x","{escaped}":["{escaped}","{base64}",{{"u":"{url_safe}"}}]}}'
        say '{{"type":"y","percent":"s3cr3t%2Fwith%22quote%20%26%20more","nested":"{{\"a\":\"mult\\nline\"}}"}}'
        echo 'no event: {SECRET}'
        printf 'stderr {SECRET} and mult' >&2; sleep 0; printf '\nline\n' >&2
        exit 3"#
    );
    let fixture = with_secrets(Fixture::with_cli(&script));
    let run = fixture.run();
    assert_eq!(run.code, Some(3));
    assert_eq!(run.error(), "the agent exited with code 3: stderr *** and ***");
    let events = fixture.platform.events();
    assert_eq!(events[1]["***"][0], "***");
    assert_eq!(events[2]["percent"], "***");
    let sent: Vec<_> = fixture.platform.server.requests();
    let bodies = sent.iter().map(|request| String::from_utf8_lossy(&request.body).into_owned());
    let system_log = fixture.text("home/.vm0/guest-agent/runs/run-1/system.log");
    let everything = bodies.chain([system_log, run.stderr, run.stdout]).collect::<String>();
    for trace in [
        "s3cr3t",
        "with\\\"quote",
        &base64[4..20],
        &url_safe[..20],
        "mult\nline",
        "mult\\nline",
        TOKEN,
    ] {
        assert!(!everything.contains(trace), "{trace} in {everything}");
    }
    assert!(everything.contains("no event: ***"));
}

#[test]
fn the_history_and_the_archives_are_not_masked() {
    let mut fixture = Fixture::new(&format!("echo '{SECRET}' | tee \"$PWD/file\""));
    let work = fixture.path("work");
    fixture.set(
        "VM0_ARTIFACTS",
        &serde_json::json!([{ "name": "w", "mountPath": work, "storageId": "st", "versionId": "v0" }])
            .to_string(),
    );
    let fixture = with_secrets(fixture);
    assert_eq!(fixture.run().code, Some(0));
    let uploads = fixture.platform.uploads();
    let history = uploads.iter().find(|upload| upload.path.contains("history")).unwrap();
    assert!(String::from_utf8_lossy(&history.body).contains("s3cr3t/with"));
    let archive = uploads.iter().find(|upload| upload.path.contains("st/archive")).unwrap();
    let files = crate::artifact::unpack(&archive.body);
    assert_eq!(files[0].2, format!("{SECRET}\n").into_bytes());
}
