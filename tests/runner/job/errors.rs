//! What is said when something is wrong.

use std::fs;

use crate::harness::{Host, runner, stderr, stdout};

#[test]
fn commands_without_a_platform_fail_and_name_the_commands_that_serve_it() {
    let state = tempfile::tempdir().unwrap();
    let expected = format!(
        "runner: no platform serves {}: start one with `runner start --local` or `runner serve`\n",
        state.path().display()
    );
    let commands: [(&[&str], i32); 4] = [
        (&["job", "ls"], 1),
        (&["job", "submit", "--prompt", "x"], 1),
        (&["job", "submit", "--prompt", "x", "--follow"], 125),
        (&["job", "wait", "abcd"], 125),
    ];
    for (command, code) in commands {
        let output = runner(state.path(), command).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(code), expected.clone()));
    }
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn prune_of_a_fresh_state_folder_creates_nothing() {
    let state = tempfile::tempdir().unwrap();
    let output = runner(state.path(), &["job", "prune"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).starts_with("removed 0 jobs"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn serve_refuses_a_bucket_whose_credentials_are_missing_readable_by_others_or_useless() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("credentials");
    fs::write(&file, "aws_access_key_id = AK\naws_secret_access_key = the-secret\n").unwrap();
    let serve = |more: &[&str]| {
        let bucket = ["serve", "--listen", "127.0.0.1:0", "--bucket", "jobs"];
        let endpoint = ["--bucket-endpoint", "http://127.0.0.1:1"];
        let mut serve = runner(state.path(), &[&bucket, &endpoint[..], more].concat());
        serve.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        let output = serve.output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let named = ["--bucket-credentials", file.to_str().unwrap()];
    let modes = [0o644, 0o600].map(|mode| {
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        serve(&named)
    });

    let missing = serve(&[]);

    assert!(missing.1.contains("no credentials for the object store"), "{}", missing.1);
    assert!(modes[0].1.contains("run `chmod 600` on it"), "{}", modes[0].1);
    assert!(modes[1].1.contains("cannot reach the object store 127.0.0.1"), "{}", modes[1].1);
    assert!([&missing, &modes[0], &modes[1]].iter().all(|(code, _)| *code == Some(1)));
    assert!(!modes[1].1.contains("the-secret"));
}

#[test]
fn a_killed_platform_is_reported_as_absent() {
    let host = Host::start();
    let state = host.stop();
    let output = runner(state.path(), &["job", "ls"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no platform serves "), "{}", stderr(&output));
}

#[test]
fn the_error_of_an_unknown_job_names_it_and_the_list() {
    let host = Host::start();
    for id in ["abcd", "../../x", "", "abc"] {
        let output = host.run(&["job", "show", id]);
        let told = format!("runner: no job `{id}`: `runner job ls` lists them\n");
        assert_eq!((output.status.code(), stderr(&output)), (Some(1), told));
    }
    let output = host.run(&["job", "submit", "--prompt", "x", "--resume", "abcd"]);
    assert!(stderr(&output).contains("no job `abcd`"), "{}", stderr(&output));
}

#[test]
fn a_job_without_a_checkpoint_cannot_be_resumed_or_inspected() {
    let host = Host::start();
    let run = host.submit(&[]);
    let told = format!("runner: no checkpoint of job {run}\n");
    assert_eq!(stderr(&host.run(&["job", "checkpoint", &run])), told);
    assert_eq!(stderr(&host.run(&["job", "submit", "--prompt", "x", "--resume", &run])), told);
}

#[test]
fn wrong_flags_are_usage_errors_that_name_the_expected_form() {
    let host = Host::start();
    let wrong: [(&[&str], &str); 6] = [
        (&["submit"], "--prompt"),
        (&["submit", "--prompt", "x", "--artifact", "here"], "expected DIR:MOUNT"),
        (&["submit", "--prompt", "x", "--timeout", "30x"], "1.5s"),
        (&["submit", "--prompt", "x", "--agent", "nobody"], "mock"),
        (&["submit", "--promt", "x"], "--prompt"),
        (&["artifact", "get"], "<JOB>"),
    ];
    for (flags, expected) in wrong {
        let output = host.run(&[&["job"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(stderr(&output).contains(expected), "{flags:?}: {}", stderr(&output));
    }
}

#[test]
fn no_usage_error_repeats_a_secret() {
    let host = Host::start();
    let flags = ["job", "submit", "--prompt", "x", "--secret", "=hunter2"];
    let output = host.run(&flags);
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
}

#[test]
fn the_error_of_a_missing_artifact_folder_names_it() {
    let host = Host::start();
    let output = host.run(&["job", "submit", "--prompt", "x", "--artifact", "/not/there:/w"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot open /not/there"), "{}", stderr(&output));
}

#[test]
fn help_has_examples_and_warns_about_secrets_in_ps() {
    let state = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| stdout(&runner(state.path(), arguments).output().unwrap());
    assert!(help(&["--help"]).contains("\n  job "), "{}", help(&["--help"]));
    assert!(help(&["job", "--help"]).contains("Examples:"));
    let submit = help(&["job", "submit", "--help"]);
    assert!(submit.contains("Examples:") && submit.contains("`ps`"), "{submit}");
    assert!(help(&["serve", "--help"]).contains("Examples:"));
}
