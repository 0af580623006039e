//! The CLI's environment and arguments, and errors in the agent's own environment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use guest_test::Reply;
use serde_json::json;

use crate::harness::{Fixture, TOKEN};

#[test]
fn the_cli_inherits_no_variables_and_the_user_cannot_override_system_ones() {
    let mut fixture = Fixture::with_cli("session\nenv > \"$HOME/env\"");
    let file = fixture.path("user-env");
    let user = r#"{"MINE":"1","NODE_OPTIONS":"--x","VM0_API_TOKEN":"fake","PATH":"/evil","DISABLE_TELEMETRY":"0","A=B":"x"}"#;
    fs::write(&file, user).unwrap();
    fixture.set("VM0_USER_ENV_FILE", file.to_str().unwrap());
    fixture.set("LD_LIBRARY_PATH", "/nowhere");
    fixture.set("TZ", "Europe/Berlin");
    fixture.set("NODE_EXTRA_CA_CERTS", "/ca.pem");
    fixture.set("SOMETHING", "else");
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let text = fixture.text("home/env");
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
fn the_cli_gets_its_flags_as_arguments_and_its_prompt_on_stdin() {
    let mut fixture =
        Fixture::with_cli("session\nprintf '%s\\n' \"$@\" > \"$HOME/argv\"; cat > \"$HOME/stdin\"");
    fixture.set("VM0_PROMPT", "--resume \"quoted\"\nline");
    fixture.set("VM0_RESUME_SESSION_ID", "s1");
    fixture.set("VM0_APPEND_SYSTEM_PROMPT", "be kind");
    fixture.set("VM0_TOOLS", "Bash,Edit");
    fixture.set("VM0_DISALLOWED_TOOLS", r#"["WebFetch"]"#);
    fixture.set("VM0_SETTINGS", r#"{"env":{"TOKEN":"t0ken"}}"#);
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let argv = fixture.text("home/argv");
    let settings = fixture.run_folder().join("settings.json");
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
    let message: serde_json::Value = serde_json::from_str(&fixture.text("home/stdin")).unwrap();
    assert_eq!(message["message"]["content"], "--resume \"quoted\"\nline");
}

#[test]
fn a_long_system_prompt_and_long_settings_are_passed_as_files() {
    let mut fixture = Fixture::new("echo hello");
    let long = |text: &str| text.repeat((200 << 10) / text.len());
    for (name, text) in [
        ("VM0_APPEND_SYSTEM_PROMPT_FILE", long("be kind. ")),
        ("VM0_SETTINGS_FILE", format!("{{\"x\":\"{}\"}}", long("y"))),
    ] {
        let path = fixture.path(name);
        fs::write(&path, text).unwrap();
        fixture.set(name, path.to_str().unwrap());
    }
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let prompt = std::fs::read_to_string(fixture.run_folder().join("system-prompt.txt")).unwrap();
    assert_eq!(prompt, long("be kind. "));
}

#[test]
fn only_the_owner_can_read_the_files_of_a_run() {
    let fixture = Fixture::new("echo hello");
    fixture.run();
    let folder = fixture.run_folder();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.iter().all(|path| mode(path) == 0o600), "{names:?}");
    // The scratch files of the spool and of archives are gone.
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn the_run_folder_can_be_configured() {
    let mut fixture = Fixture::new("echo hello");
    let folder = fixture.path("elsewhere");
    fixture.set("VM0_GUEST_RUNTIME_DIR", folder.to_str().unwrap());
    assert_eq!(fixture.run().code, Some(0));
    assert!(folder.join("outcome.json").exists() && !fixture.run_folder().exists());
}

#[test]
fn an_error_names_the_variable_that_is_missing_or_invalid() {
    let mut fixture = Fixture::new("");
    let run = fixture.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), "guest-agent: VM0_PROMPT is not set\n"));
    fixture.set("VM0_PROMPT", "x");
    fixture.set("CLI_AGENT_TYPE", "gemini");
    let run = fixture.run();
    assert_eq!(run.stderr, "guest-agent: CLI_AGENT_TYPE is neither claude-code nor codex\n");
    assert!(fixture.platform.server.requests().is_empty());
}

#[test]
fn a_rejected_first_heartbeat_fails_the_run_before_the_cli_starts() {
    let fixture = Fixture::with_cli("touch \"$HOME/started\"");
    fixture.platform.answer("heartbeat", Reply::refusal(401, "bad token"));
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    let url = fixture.platform.server.url();
    assert!(run.error().starts_with(&format!("cannot reach API at {url}: ")), "{}", run.error());
    assert!(run.error().ends_with("HTTP 401: bad token"), "{}", run.error());
    assert!(!fixture.path("home/started").exists());
}

#[test]
fn a_working_directory_that_cannot_be_created_is_an_error() {
    let mut fixture = Fixture::new("x");
    fs::write(fixture.path("file"), "").unwrap();
    let path = fixture.path("file/work");
    fixture.set("VM0_WORKING_DIR", path.to_str().unwrap());
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().starts_with("cannot set up the working directory"), "{}", run.error());
}

#[test]
fn a_run_goes_on_at_another_address_of_its_platform() {
    let mut fixture = Fixture::new("echo hello");
    let url = fixture.platform.server.url();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fixture.set("VM0_API_URL", &format!("http://{gone}"));
    fixture.set("VM0_API_URLS", &format!("http://{gone} {url}"));

    let run = fixture.run();

    assert_eq!(run.code, Some(0), "{}", run.error());
    assert!(!fixture.platform.sequences().is_empty());
}

#[test]
fn only_the_certificate_roots_of_the_system_are_trusted() {
    let (known, unknown) = (guest_test::Authority::new(), guest_test::Authority::new());
    let serve =
        || guest_test::Server::start_tls(&known.issue(), |_| Reply::refusal(401, "heard you"));
    let (first, second) = (serve(), serve());
    let mut fixture = Fixture::new("x");
    known.install(&fixture.path("known.pem"));
    unknown.install(&fixture.path("unknown.pem"));
    let stores = ["known.pem", "unknown.pem"].map(|name| fixture.path(name).display().to_string());
    fixture.set("VM0_API_URL", &first.named_url());
    fixture.set("SSL_CERT_FILE", &stores[0]);
    let run = fixture.run();
    assert!(run.error().ends_with("HTTP 401: heard you"), "{}", run.error());

    fixture.set("VM0_API_URL", &second.named_url());
    fixture.set("SSL_CERT_FILE", &stores[1]);
    let running = fixture.start();
    // Without the signal it would retry for 30 s.
    second.wait_for_broken_connection();
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(running.wait(&fixture).code, Some(143));
    assert!(second.requests().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_run_started_by_root_can_read_all_files_and_its_cli_cannot() {
    let mut fixture = Fixture::with_cli(
        r#"session
        id -u > who; grep CapEff /proc/self/status >> who
        cat secret > copy || echo "not mine" >> who"#,
    );
    for name in ["home", "work", "bin", ""] {
        let path = fixture.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        if matches!(name, "home" | "work") {
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        }
    }
    fs::write(fixture.path("work/secret"), "of root").unwrap();
    fs::set_permissions(fixture.path("work/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fixture.set("VM0_RUN_AS", "nobody");
    let list = json!([{ "name": "w", "mountPath": fixture.path("work"), "storageId": "st" }]);
    fixture.set("VM0_ARTIFACTS", &list.to_string());

    let run = fixture.run();

    assert_eq!(run.code, Some(0), "{} {}", run.outcome, run.stderr);
    assert_eq!(fixture.text("work/who"), "65534\nCapEff:\t0000000000000000\nnot mine\n");
    let files = &fixture.platform.bodies("storages/prepare")[0]["files"];
    let paths: Vec<_> = files.as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, ["copy", "secret", "who"]);
    assert!(fixture.platform.calls("warnings").is_empty());
}
