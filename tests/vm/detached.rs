//! VMs that stay, used from other processes.

use std::io::Write;
use std::process::Stdio;

use crate::host::Host;
use crate::runner::{Runner, text};

#[test]
#[ignore = "needs root and QEMU"]
fn a_detached_vm_is_listed_used_and_stopped() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    runner.succeed(&["run", "-d", "--name", "box"]);
    assert!(runner.succeed(&["ps"]).contains("box"));
    assert_eq!(runner.run(&["exec", "box", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    runner.succeed(&["exec", "box", "--", "touch", "/tmp/kept"]);
    assert_eq!(runner.succeed(&["exec", "box", "--", "ls", "/tmp/kept"]), "/tmp/kept\n");
    runner.succeed(&["stop", "box"]);
    assert!(!runner.succeed(&["ps"]).contains("box"));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_output_of_a_detached_command_is_in_its_log() {
    let runner = Runner::new();
    let script = "echo one; echo two >&2; touch /tmp/done; sleep 1000";
    runner.succeed(&["run", "-d", "--name", "box", "--", "sh", "-c", script]);
    let mut follow = runner.start(&["logs", "-f", "box"]);
    follow.wait_for_line("one");
    follow.wait_for_line("two");
    runner.succeed(&["stop", "box"]);
    let (code, _, _) = follow.finish();
    assert_eq!(code, Some(0));
}

#[test]
#[ignore = "needs root and QEMU"]
fn files_are_copied_both_ways() {
    let runner = Runner::new();
    let here = tempfile::tempdir().unwrap();
    let (file, back) = (here.path().join("file"), here.path().join("back"));
    std::fs::write(&file, "content").unwrap();
    runner.succeed(&["run", "-d", "--name", "box"]);
    runner.succeed(&["cp", file.to_str().unwrap(), "box:/srv"]);
    assert_eq!(runner.succeed(&["exec", "box", "--", "cat", "/srv/file"]), "content");
    runner.succeed(&["cp", "box:/srv/file", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "content");
    runner.succeed(&["stop", "box"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn exec_passes_standard_input_on() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "box"]);
    let mut command = runner.command(&["exec", "-i", "box", "--", "rev"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"abc\n").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "cba\n");
    runner.succeed(&["stop", "box"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_killed_client_ends_its_command() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "box"]);
    let script = "echo ready; exec sleep 12345";
    let mut client = runner.start(&["exec", "box", "--", "sh", "-c", script]);
    client.wait_for_line("ready");
    client.signal(libc::SIGKILL);
    let gone = "while pgrep -f '[s]leep 12345' >/dev/null; do sleep 0.1; done";
    runner.succeed(&["exec", "--timeout", "20s", "box", "--", "bash", "-c", gone]);
    runner.succeed(&["stop", "box"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn two_vms_cannot_have_the_same_name() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "box"]);
    let second = runner.run(&["run", "-d", "--name", "box"]);
    assert_eq!(second.status.code(), Some(125));
    assert!(text(&second.stderr).contains("box"), "{}", text(&second.stderr));
    assert_eq!(runner.vms().len(), 1);
    runner.succeed(&["stop", "box"]);
}
