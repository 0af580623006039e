//! What the CLI finds around itself, and what is wrong with an environment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use guest_test::Reply;
use serde_json::json;

use crate::harness::{Place, TOKEN};

#[test]
fn the_agent_sees_nothing_of_ours_and_the_user_does_not_win() {
    let mut place = Place::with_cli("session\nenv > \"$HOME/env\"");
    let file = place.path("user-env");
    let user = r#"{"MINE":"1","NODE_OPTIONS":"--x","VM0_API_TOKEN":"fake","PATH":"/evil","DISABLE_TELEMETRY":"0","A=B":"x"}"#;
    fs::write(&file, user).unwrap();
    place.set("VM0_USER_ENV_FILE", file.to_str().unwrap());
    place.set("LD_LIBRARY_PATH", "/nowhere");
    place.set("TZ", "Europe/Berlin");
    place.set("NODE_EXTRA_CA_CERTS", "/ca.pem");
    place.set("SOMETHING", "else");
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let text = place.text("home/env");
    let has = |line: &str| text.lines().any(|other| other == line);
    assert!(has("MINE=1") && has("NODE_OPTIONS=--x") && has("DISABLE_TELEMETRY=1"), "{text}");
    assert!(has("TZ=Europe/Berlin") && has("NODE_EXTRA_CA_CERTS=/ca.pem"), "{text}");
    assert!(has("DISABLE_AUTOUPDATER=1"));
    for trace in ["VM0_", TOKEN, "LD_LIBRARY_PATH", "SOMETHING", "/evil", "A=B", "CLI_AGENT"] {
        assert!(!text.contains(trace), "{trace} in {text}");
    }
    assert!(!file.exists());
}

#[test]
fn the_agent_gets_its_flags_and_the_prompt_is_none_of_them() {
    let mut place =
        Place::with_cli("session\nprintf '%s\\n' \"$@\" > \"$HOME/argv\"; cat > \"$HOME/stdin\"");
    place.set("VM0_PROMPT", "--resume \"quoted\"\nline");
    place.set("VM0_RESUME_SESSION_ID", "s1");
    place.set("VM0_APPEND_SYSTEM_PROMPT", "be kind");
    place.set("VM0_TOOLS", "Bash,Edit");
    place.set("VM0_DISALLOWED_TOOLS", r#"["WebFetch"]"#);
    place.set("VM0_SETTINGS", r#"{"env":{"TOKEN":"t0ken"}}"#);
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let argv = place.text("home/argv");
    let settings = place.run_folder().join("settings.json");
    let expected = "--print --verbose --output-format stream-json --input-format stream-json \
        --dangerously-skip-permissions --resume s1 --append-system-prompt be_kind \
        --disallowed-tools WebFetch --tools Bash Edit --settings";
    assert_eq!(
        argv.replace("be kind", "be_kind").split_whitespace().collect::<Vec<_>>(),
        expected.split_whitespace().chain([settings.to_str().unwrap()]).collect::<Vec<_>>()
    );
    assert_eq!(std::fs::read(&settings).unwrap(), br#"{"env":{"TOKEN":"t0ken"}}"#);
    let mode = std::fs::metadata(&settings).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let message: serde_json::Value = serde_json::from_str(&place.text("home/stdin")).unwrap();
    assert_eq!(message["message"]["content"], "--resume \"quoted\"\nline");
}

#[test]
fn a_long_system_prompt_and_long_settings_are_no_arguments() {
    let mut place = Place::new("echo hello");
    let long = |text: &str| text.repeat((200 << 10) / text.len());
    for (name, text) in [
        ("VM0_APPEND_SYSTEM_PROMPT_FILE", long("be kind. ")),
        ("VM0_SETTINGS_FILE", format!("{{\"x\":\"{}\"}}", long("y"))),
    ] {
        let path = place.path(name);
        fs::write(&path, text).unwrap();
        place.set(name, path.to_str().unwrap());
    }
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let prompt = std::fs::read_to_string(place.run_folder().join("system-prompt.txt")).unwrap();
    assert_eq!(prompt, long("be kind. "));
}

#[test]
fn the_files_of_a_run_are_for_their_owner_only() {
    let place = Place::new("echo hello");
    place.run();
    let folder = place.run_folder();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.iter().all(|path| mode(path) == 0o600), "{names:?}");
    // The events that were on their way, and what was packed, have gone.
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn the_runs_files_can_be_elsewhere() {
    let mut place = Place::new("echo hello");
    let folder = place.path("elsewhere");
    place.set("VM0_GUEST_RUNTIME_DIR", folder.to_str().unwrap());
    assert_eq!(place.run().code, Some(0));
    assert!(folder.join("outcome.json").exists() && !place.run_folder().exists());
}

#[test]
fn what_is_missing_or_wrong_in_the_environment_is_named() {
    let mut place = Place::new("");
    let run = place.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), "guest-agent: VM0_PROMPT is not set\n"));
    place.set("VM0_PROMPT", "x");
    place.set("CLI_AGENT_TYPE", "gemini");
    let run = place.run();
    assert_eq!(run.stderr, "guest-agent: CLI_AGENT_TYPE is neither claude-code nor codex\n");
    assert!(place.platform.server.requests().is_empty());
}

#[test]
fn a_platform_that_refuses_the_first_heartbeat_gets_no_run() {
    let place = Place::with_cli("touch \"$HOME/started\"");
    place.platform.answer("heartbeat", Reply::refusal(401, "bad token"));
    let run = place.run();
    assert_eq!(run.code, Some(1));
    let url = place.platform.server.url();
    assert!(run.error().starts_with(&format!("cannot reach API at {url}: ")), "{}", run.error());
    assert!(run.error().ends_with("HTTP 401: bad token"), "{}", run.error());
    assert!(!place.path("home/started").exists());
}

#[test]
fn a_working_directory_that_cannot_be_is_an_error() {
    let mut place = Place::new("x");
    fs::write(place.path("file"), "").unwrap();
    let path = place.path("file/work");
    place.set("VM0_WORKING_DIR", path.to_str().unwrap());
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().starts_with("cannot set up the working directory"), "{}", run.error());
}

#[test]
fn the_systems_certificates_count_and_no_others() {
    let (known, unknown) = (guest_test::Authority::new(), guest_test::Authority::new());
    let serve =
        || guest_test::Server::start_tls(&known.vouch(), |_| Reply::refusal(401, "heard you"));
    let (first, second) = (serve(), serve());
    let mut place = Place::new("x");
    known.install(&place.path("known.pem"));
    unknown.install(&place.path("unknown.pem"));
    let stores = ["known.pem", "unknown.pem"].map(|name| place.path(name).display().to_string());
    place.set("VM0_API_URL", &first.named_url());
    place.set("SSL_CERT_FILE", &stores[0]);
    let run = place.run();
    assert!(run.error().ends_with("HTTP 401: heard you"), "{}", run.error());

    place.set("VM0_API_URL", &second.named_url());
    place.set("SSL_CERT_FILE", &stores[1]);
    let running = place.start();
    // It would try for 30 s.
    second.wait_for_broken_connection();
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(running.wait(&place).code, Some(143));
    assert!(second.requests().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_run_that_root_starts_reads_all_files_and_its_cli_does_not() {
    let mut place = Place::with_cli(
        r#"session
        id -u > who; grep CapEff /proc/self/status >> who
        cat secret > copy || echo "not mine" >> who"#,
    );
    for name in ["home", "work", "bin", ""] {
        let path = place.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        if matches!(name, "home" | "work") {
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        }
    }
    fs::write(place.path("work/secret"), "of root").unwrap();
    fs::set_permissions(place.path("work/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    place.set("VM0_RUN_AS", "nobody");
    let list = json!([{ "name": "w", "mountPath": place.path("work"), "storageId": "st" }]);
    place.set("VM0_ARTIFACTS", &list.to_string());

    let run = place.run();

    assert_eq!(run.code, Some(0), "{} {}", run.outcome, run.stderr);
    assert_eq!(place.text("work/who"), "65534\nCapEff:\t0000000000000000\nnot mine\n");
    let files = &place.platform.bodies("storages/prepare")[0]["files"];
    let paths: Vec<_> = files.as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, ["copy", "secret", "who"]);
    assert!(place.platform.calls("warnings").is_empty());
}
