//! The command line as a user meets it, as far as it needs neither a VM nor root.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use netns::testing::World;
use tempfile::TempDir;

/// A state folder of its own, which all users may use.
fn state() -> TempDir {
    let open = PermissionsExt::from_mode(0o777);
    tempfile::Builder::new().permissions(open).tempdir().unwrap()
}

fn runner(state: &TempDir, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.arg("--state-dir").arg(state.path()).args(arguments).stdin(Stdio::null());
    command.env_remove("RUST_LOG").env_remove("RUNNER_GUEST_DIR");
    command.env("RUNNER_RUNTIME_DIR", state.path().join("run"));
    command
}

fn run(state: &TempDir, arguments: &[impl AsRef<OsStr>]) -> Output {
    runner(state, arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What an image looks like in the store; its files are never opened here.
fn pretend_image(state: &TempDir) {
    let folder = state.path().join("images/default");
    fs::create_dir_all(&folder).unwrap();
    let json = r#"{"id": "0000000000000000", "kernel_version": "6.1.0", "created": 0,
        "size_bytes": 1048576, "source": "debian:bookworm", "arch": "x86_64", "defaults": {}}"#;
    fs::write(folder.join("image.json"), json).unwrap();
}

#[test]
fn help_has_every_command_and_examples() {
    let output = run(&state(), &["--help"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("Examples:"), "{text}");
    let missing: Vec<_> =
        ["run", "exec", "ps", "cp", "logs", "stop", "image", "doctor", "gc", "key"]
            .into_iter()
            .filter(|command| !text.contains(&format!("\n  {command} ")))
            .collect();
    assert!(missing.is_empty(), "{missing:?} not in: {text}");
}

#[test]
fn help_of_run_explains_its_exit_codes() {
    let text = stdout(&run(&state(), &["run", "--help"]));
    assert!(text.contains("125 if the runner itself failed"), "{text}");
    assert!(!text.contains("--detached"), "{text}");
}

#[test]
fn version_is_printed() {
    assert!(stdout(&run(&state(), &["-V"])).starts_with("runner "));
}

#[test]
fn a_wrong_flag_is_a_usage_error_with_a_suggestion() {
    let output = run(&state(), &["run", "--vcpu", "2", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--vcpus"), "{}", stderr(&output));
}

#[test]
fn a_copy_without_a_destination_is_a_usage_error() {
    let output = run(&state(), &["run", "--copy-in", "here", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("expected SRC:DST"), "{}", stderr(&output));
}

#[test]
fn a_time_with_an_unknown_unit_is_a_usage_error() {
    let output = run(&state(), &["run", "--timeout", "30x", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("1.5s"), "{}", stderr(&output));
}

#[test]
fn copying_needs_exactly_one_vm() {
    let output = run(&state(), &["cp", "./here", "./there"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("VM:PATH"), "{}", stderr(&output));
}

#[test]
fn the_error_of_an_unknown_image_has_its_name_and_a_remedy() {
    let output = run(&state(), &["run", "--image", "nope", "--", "true"]);
    let expected = "runner: no image named nope: `runner image ls` lists them, \
                    `runner image build NAME` makes one\n";
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr(&output), expected);
}

#[test]
fn a_missing_sub_command_is_a_usage_error() {
    let state = state();
    pretend_image(&state);
    let output = run(&state, &["run"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no command given"), "{}", stderr(&output));
}

#[test]
fn a_user_without_root_gets_an_error_of_one_line() {
    let state = state();
    pretend_image(&state);
    let mut command = runner(&state, &["run", "--", "true"]);
    // Cargo's folders may be closed to others, so the program is passed as an open file.
    let program = fs::File::open(env!("CARGO_BIN_EXE_runner")).unwrap();
    let mut as_nobody = Command::new("setpriv");
    as_nobody.args(["--reuid", "65534", "--clear-groups", "--"]);
    let output = if nix::unistd::geteuid().is_root() {
        as_nobody.arg("/proc/self/fd/0").args(command.get_args()).stdin(program).output()
    } else {
        command.arg0("runner").output()
    };
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).ends_with("requires root: use sudo\n"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn a_missing_firecracker_is_not_replaced_by_qemu() {
    let state = state();
    pretend_image(&state);
    let output = run(&state, &["run", "--vmm", "firecracker", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let told = stderr(&output);
    assert!(told.contains("Firecracker") || told.contains("root"), "{told}");
}

#[test]
fn a_missing_firecracker_at_a_given_path_is_not_replaced_by_qemu() {
    let state = state();
    pretend_image(&state);
    let output = run(&state, &["--firecracker", "/no/such/program", "run", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let told = stderr(&output);
    assert!(told.contains("Firecracker is not found") || told.contains("root"), "{told}");
}

#[test]
fn a_host_without_vms_has_an_empty_list() {
    let output = run(&state(), &["ps"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1);
    assert!(stdout(&output).starts_with("ID "), "{}", stdout(&output));
}

#[test]
fn the_list_for_programs_is_empty_json() {
    assert_eq!(stdout(&run(&state(), &["ps", "--json"])), "[]\n");
}

#[test]
fn the_error_of_an_unknown_vm_names_it() {
    let output = run(&state(), &["exec", "nope", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("no VM `nope`"), "{}", stderr(&output));
}

#[test]
fn several_vms_that_cannot_be_stopped_are_counted() {
    let output = run(&state(), &["stop", "one", "two"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("2 of 2 VMs"), "{}", stderr(&output));
}

#[test]
fn images_are_listed_for_people_and_for_programs() {
    let state = state();
    pretend_image(&state);
    let table = stdout(&run(&state, &["image", "ls"]));
    assert!(table.lines().nth(1).unwrap().starts_with("default   000000000000   6.1.0"), "{table}");
    let json = stdout(&run(&state, &["image", "ls", "--json"]));
    let images: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(images[0]["name"], "default");
}

#[test]
fn an_image_is_removed_by_name() {
    let state = state();
    pretend_image(&state);
    assert_eq!(run(&state, &["image", "rm", "default"]).status.code(), Some(0));
    assert_eq!(run(&state, &["image", "rm", "default"]).status.code(), Some(1));
}

#[test]
fn a_build_without_guest_programs_names_the_script_that_builds_them() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().to_str().unwrap();
    let output = run(&state(), &["image", "build", "x", "--guest-dir", named]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("scripts/build-guest"), "{}", stderr(&output));
}

#[test]
fn doctor_prints_its_findings_as_json() {
    let output = run(&state(), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let is_missing = checks.iter().any(|check| check["state"] == "missing");
    assert_eq!(report["ok"], !is_missing);
    assert_eq!(output.status.code(), Some(i32::from(is_missing)));
    let complete = |check: &serde_json::Value| {
        let state = check["state"].as_str().unwrap();
        ["good", "weak", "missing"].contains(&state)
            && check["subject"].is_string()
            && check["detail"].is_string()
            && (state != "missing" || check["remedy"].is_string())
    };
    assert!(checks.iter().all(complete), "{report:#}");
    assert!(checks.iter().any(|check| check["subject"] == "default image"), "{report:#}");
}

#[test]
#[ignore = "needs root"]
fn gc_without_dead_runners_removes_nothing() {
    // Without the networks of runners that live, or died, on this machine.
    let _world = World::enter();
    let output = run(&state(), &["gc"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "removed 0 dead VMs, 0 networks and 0 stale snapshots\n");
}

#[test]
fn a_closed_pipe_prints_no_error() {
    let state = state();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = runner(&state, &["ps"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(stderr(&output), "");
}

#[test]
fn an_api_key_is_shown_once_listed_and_revoked() {
    let state = state();
    let created = run(&state, &["key", "create", "--name", "ci", "--sandboxes", "3"]);
    assert_eq!(created.status.code(), Some(0), "{}", stderr(&created));
    let secret = stdout(&created);
    assert!(secret.starts_with("e2b_") && secret.len() == 45, "{secret}");
    let table = stdout(&run(&state, &["key", "ls"]));
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1..6], ["ci", "all", "3", "-", "-"], "{table}");
    let json = stdout(&run(&state, &["key", "ls", "--json"]));
    let keys: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(keys[0]["limits"], serde_json::json!({"sandboxes": 3}));
    assert!(keys[0].get("hash").is_none(), "{json}");
    let revoked = run(&state, &["key", "revoke", "ci"]);
    assert_eq!(stdout(&revoked).trim(), row[0]);
    assert_eq!(stdout(&run(&state, &["key", "ls"])).lines().count(), 1);
    let again = run(&state, &["key", "revoke", "ci"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("`runner key ls` lists them"), "{}", stderr(&again));
}
