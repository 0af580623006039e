//! What goes on after its command: processes that it left, and commands in the background.

use std::io::Write;
use std::process::Stdio;

use crate::host::Host;
use crate::runner::{Runner, text};

/// A server: answers each line to `/tmp/go` in `/tmp/done`, and logs more than a pipe holds.
const SERVE: &str = "mkfifo /tmp/go /tmp/done; \
    while read line < /tmp/go; do head -c 100000 /dev/zero >&2; echo served; echo ok > /tmp/done; done";

/// Has the server answer once.
fn ask(runner: &Runner) -> String {
    let ask = "until [ -p /tmp/done ]; do sleep 0.1; done; echo > /tmp/go; cat /tmp/done";
    runner.succeed(&["exec", "--timeout", "20s", "box", "--", "sh", "-c", ask])
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_server_that_a_command_started_outlives_the_command() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "box", "-p", "127.0.0.2:0:8081"]);
    assert!(runner.succeed(&["ps"]).contains("127.0.0.2:"));
    runner.succeed(&["exec", "box", "--", "sh", "-c", &format!("({SERVE}) &")]);
    assert_eq!(ask(&runner), "ok\n");
    assert_eq!(ask(&runner), "ok\n");
    runner.succeed(&["stop", "box"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn output_of_survivors_of_a_detached_command_is_in_its_log() {
    let runner = Runner::new();
    let script = format!("({SERVE}) & exit 3");
    runner.succeed(&["run", "-d", "--name", "box", "--", "sh", "-c", &script]);
    assert_eq!(runner.run(&["wait", "box"]).status.code(), Some(3));
    assert_eq!(ask(&runner), "ok\n");
    let mut follow = runner.start(&["logs", "-f", "box"]);
    follow.wait_for_line("[runner: the command ended: exit code 3]");
    follow.wait_for_line(&format!("{}served", "\0".repeat(100_000)));
    runner.succeed(&["stop", "box"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_command_in_the_background_has_a_name_a_log_and_an_exit_code() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    runner.succeed(&["run", "-d", "--name", "box"]);
    let script = "mkfifo /tmp/go; echo one; read line < /tmp/go; echo two >&2; exit 7";
    let start = ["exec", "-d", "--name", "job", "box", "--", "sh", "-c", script];
    assert_eq!(runner.succeed(&start), "job\n");
    let mut follow = runner.start(&["logs", "-f", "--command", "job", "box"]);
    follow.wait_for_line("one");
    assert!(runner.succeed(&["ps", "box"]).contains("job    sh        running"));
    let taken = runner.run(&start);
    assert_eq!(taken.status.code(), Some(125), "{}", text(&taken.stderr));

    runner.succeed(&["exec", "box", "--", "sh", "-c", "echo > /tmp/go"]);
    assert_eq!(runner.run(&["wait", "--command", "job", "box"]).status.code(), Some(7));
    let (code, rest, _) = follow.finish();
    assert_eq!((code, rest.as_str()), (Some(0), "two\n[runner: the command ended: exit code 7]\n"));

    let missing = runner.run(&["exec", "-d", "box", "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("no-such-program"), "{}", text(&missing.stderr));
    assert_eq!(runner.succeed(&["exec", "-d", "box", "--", "sleep", "1000"]), "command-1\n");
    let mut waiter = runner.start(&["wait", "--command", "command-1", "box"]);
    runner.succeed(&["stop", "--timeout", "1s", "box"]);
    assert!(waiter.child.wait().unwrap().code().is_some_and(|code| code != 0));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_user_opens_its_standard_streams_by_name() {
    let runner = Runner::new();
    let script = "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr; id -G";
    let flags = ["run", "-i", "--user", "user:root", "--", "sh", "-c", script];
    let mut command = runner.command(&flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "err\n");
    assert_eq!(text(&output.stdout), "in\n0\n");
}

#[test]
#[ignore = "needs root and QEMU"]
fn signals_that_are_not_for_the_runner_reach_the_command_and_do_not_end_the_runner() {
    let runner = Runner::new();
    let script = "trap 'echo usr1' USR1; trap 'echo window' WINCH; trap 'exit 5' TERM; echo ready; \
        while :; do sleep 1000 & wait $!; done";
    let mut running = runner.start(&["run", "--", "sh", "-c", script]);
    running.wait_for_line("ready");
    running.signal(libc::SIGWINCH);
    running.signal(libc::SIGUSR1);
    running.wait_for_line("usr1");
    running.signal(libc::SIGUSR1);
    running.wait_for_line("usr1");
    running.signal(libc::SIGTERM);
    let (code, _, errors) = running.finish();
    assert_eq!(code, Some(5), "{errors}");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_missing_working_folder_is_distinguished_from_a_missing_program() {
    let output = Runner::new().run(&["run", "--workdir", "/no/such/folder", "--", "true"]);
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains("/no/such/folder"), "{}", text(&output.stderr));
}
