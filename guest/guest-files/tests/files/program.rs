//! The program as a process.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::harness::Home;

fn run(mut command: Command, request: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_exit_code_tells_whether_it_succeeded() {
    let home = Home::new();
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest-files"));
        command.env("HOME", home.path());
        command
    };

    let made = run(program(), r#"{"make_dir":{"path":"a"}}"#);
    let failed = run(program(), r#"{"stat":{"path":"b"}}"#);

    assert_eq!(made.status.code(), Some(0));
    assert!(home.path().join("a").is_dir());
    assert_eq!(failed.status.code(), Some(1));
    let expected = format!(
        "{{\"error\":{{\"code\":\"not_found\",\"message\":\"cannot read {}/b: no such file or \
         directory\"}}}}\n",
        home.text()
    );
    assert_eq!(String::from_utf8(failed.stdout).unwrap(), expected);
}

#[test]
#[ignore = "needs root"]
fn a_user_gets_no_more_than_the_users_rights() {
    const USER: u32 = 54_321;
    let home = Home::new();
    let program = home.path().join("guest-files");
    fs::copy(env!("CARGO_BIN_EXE_guest-files"), &program).unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (folder, mode) in [("own", 0o755), ("closed", 0o700)] {
        fs::create_dir(home.path().join(folder)).unwrap();
        fs::set_permissions(home.path().join(folder), PermissionsExt::from_mode(mode)).unwrap();
    }
    chown(home.path().join("own"), Some(USER), Some(USER)).unwrap();
    let ask = |request: &str| {
        let mut command = Command::new(&program);
        command.env("HOME", home.path()).uid(USER).gid(USER).current_dir("/");
        String::from_utf8(run(command, request).stdout).unwrap()
    };

    assert!(ask(r#"{"make_dir":{"path":"own/new"}}"#).contains(r#""owner":"54321""#));
    for request in [
        r#"{"make_dir":{"path":"other"}}"#,
        r#"{"remove":{"path":"closed"}}"#,
        r#"{"stat":{"path":"closed/x"}}"#,
        r#"{"move":{"source":"own","destination":"closed/own"}}"#,
        r#"{"list":{"path":"closed","depth":1}}"#,
    ] {
        let reply = ask(request);
        assert!(reply.contains(r#""code":"permission_denied""#), "{request}: {reply}");
    }
    assert!(ask(r#"{"list":{"path":".","depth":9}}"#).contains(r#""unreadable":1"#));
    assert!(ask(r#"{"account":{}}"#).contains(r#""uid":54321,"gid":54321"#));
}
