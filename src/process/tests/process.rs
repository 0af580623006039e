//! What a started process sees, and how its end is seen.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use process::{Cgroup, Command, Credentials, Error, Jail, Network, Resource, Stage, Status};

/// Runs `command` and returns what it printed.
fn output(command: Command<'_>) -> String {
    let (mut rx, tx) = std::io::pipe().unwrap();
    let child = command.stdout(OwnedFd::from(tx)).spawn().unwrap();
    let mut text = String::new();
    rx.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn the_exit_code_of_a_process_is_returned() {
    let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    assert_eq!(child.wait().unwrap(), Status::Exited(7));
    assert_eq!(child.try_wait().unwrap(), Some(Status::Exited(7)));
}

#[test]
fn a_passed_descriptor_has_number_3_and_no_other_is_open() {
    let (mut rx, tx) = std::io::pipe().unwrap();
    let script = "echo passed >&3; ls /proc/self/fd | tr '\\n' ' '";
    let command = Command::new("sh").args(["-c", script]).descriptor(OwnedFd::from(tx));
    // `ls` has the folder open as number 4.
    assert_eq!(output(command), "0 1 2 3 4 ");
    let mut passed = String::new();
    rx.read_to_string(&mut passed).unwrap();
    assert_eq!(passed, "passed\n");
}

#[test]
fn the_signal_that_ended_a_process_is_returned() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    child.signal(15).unwrap();
    let status = child.wait_until(soon()).unwrap();
    assert_eq!(status, Some(Status::Signalled { signal: 15, core_dumped: false }));
}

#[test]
fn a_real_time_signal_that_ended_a_process_is_returned() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    child.signal(40).unwrap();
    assert_eq!(child.wait().unwrap(), Status::Signalled { signal: 40, core_dumped: false });
}

#[test]
fn a_signal_to_an_ended_process_is_no_error() {
    let child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.signal(15).unwrap();
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let status = child.wait_until(Instant::now() + Duration::from_millis(5)).unwrap();
    assert_eq!(status, None);
}

#[test]
fn a_dropped_child_is_killed_and_reaped() {
    let (mut rx, tx) = std::io::pipe().unwrap();
    let child = Command::new("sleep").arg("1000").stdout(OwnedFd::from(tx)).spawn().unwrap();
    let proc = format!("/proc/{}", child.pid());
    drop(child);
    assert_eq!(rx.read(&mut [0]).unwrap(), 0);
    assert!(!Path::new(&proc).exists());
}

#[test]
fn a_process_has_only_the_given_environment() {
    assert_eq!(output(Command::new("env").env("A", "1").env("B", "x y=z")), "A=1\nB=x y=z\n");
}

#[test]
fn only_the_standard_streams_are_open() {
    let _leak = File::open("/dev/null").unwrap();
    // 3 is the folder that ls itself reads.
    assert_eq!(output(Command::new("ls").arg("/proc/self/fd")), "0\n1\n2\n3\n");
}

#[test]
fn standard_input_is_passed_to_the_process() {
    let (rx, mut tx) = std::io::pipe().unwrap();
    tx.write_all(b"hello").unwrap();
    drop(tx);
    assert_eq!(output(Command::new("cat").stdin(OwnedFd::from(rx))), "hello");
}

#[test]
fn a_missing_program_is_named_with_its_cause() {
    let error = Command::new("no-such-program").spawn().unwrap_err();
    assert_eq!(error.to_string(), "cannot start `no-such-program`: cannot run it");
    assert_eq!(error.errno(), Some(libc::ENOENT));
}

#[test]
fn a_file_that_is_not_executable_is_distinguished_from_a_missing_one() {
    let error = Command::new("/etc/passwd").spawn().unwrap_err();
    assert_eq!(error.errno(), Some(libc::EACCES));
}

#[test]
fn a_missing_working_folder_is_its_own_stage() {
    let error = Command::new("true").cwd("/no/such/folder").spawn().unwrap_err();
    assert!(matches!(error, Error::Start { stage: Stage::Cwd, .. }));
}

#[test]
fn a_zero_byte_is_refused() {
    let error = Command::new("true").arg("a\0b").spawn().unwrap_err();
    assert!(matches!(error, Error::ZeroByte { .. }));
}

#[test]
fn ignored_signals_are_not_inherited() {
    // The test runner ignores SIGPIPE, as every Rust program does.
    let line = output(Command::new("grep").args(["SigIgn", "/proc/self/status"]));
    let mask = u64::from_str_radix(line.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    assert_eq!(mask & (1 << (libc::SIGPIPE - 1)), 0);
}

#[test]
fn limits_and_the_out_of_memory_score_are_set_before_the_program_runs() {
    let script = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj";
    let command = Command::new("sh").args(["-c", script]).env("PATH", "/usr/bin:/bin");
    let command = command.limit(Resource::OpenFiles, 100, 200).oom_score(500);
    assert_eq!(output(command), "100\n200\n500\n");
}

#[test]
#[ignore = "needs root"]
fn a_process_has_exactly_its_credentials() {
    let who = Credentials { uid: 1234, gid: 2345, groups: vec![3456] };
    let ids = output(Command::new("id").credentials(who).no_new_privileges());
    assert_eq!(ids, "uid=1234 gid=2345 groups=2345,3456\n");
}

#[test]
#[ignore = "needs root"]
fn an_empty_network_has_only_loopback() {
    let links = output(Command::new("ls").arg("/proc/self/net/dev_snmp6").network(Network::Empty));
    assert_eq!(links, "lo\n");
}

#[test]
fn an_opened_program_runs_without_a_path() {
    let program = File::open("/bin/echo").unwrap();
    assert_eq!(output(Command::opened("echo", program).arg("hi")), "hi\n");
}

#[test]
#[ignore = "needs root"]
fn a_jail_has_only_its_folder_and_its_devices() {
    let Ok(program) = File::open("/usr/bin/busybox").or_else(|_| File::open("/bin/busybox")) else {
        return host_test::skip("no busybox: apt-get install busybox-static");
    };
    host_test::enter_mount_namespace();
    let mounts = host_test::mounts();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(1234), Some(1234)).unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let who = Credentials { uid: 1234, gid: 1234, groups: vec![] };
    let jail = Jail::new(folder.path()).device("/dev/null").device("/dev/net/tun");
    // Built-in commands only: no program can be run from within.
    let script = "pwd; echo /* /dev/* /dev/net/*; echo > /dev/null && echo open; ./file; echo $?";

    let command = Command::opened("busybox", program).args(["sh", "-c", script]);
    let printed = output(command.jail(jail).credentials(who).no_new_privileges());

    assert_eq!(printed, "/\n/dev /file /dev/net /dev/null /dev/net/tun\nopen\n126\n");
    assert_eq!(host_test::mounts(), mounts);
    assert_eq!(std::fs::read_dir(folder.path().join("dev")).unwrap().count(), 0);
}

#[test]
fn a_missing_device_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let jail = Jail::new(folder.path()).device("/dev/no-such-device");
    let error = Command::new("true").jail(jail).spawn().unwrap_err();
    assert_eq!(error.to_string(), "cannot prepare /dev/no-such-device for a jail");
}

#[test]
#[ignore = "needs root and cgroup v2"]
fn a_killed_cgroup_kills_a_process_that_left_its_session() {
    let parent = process::mount_point().unwrap().join("process-test");
    let name = format!("setsid-{}", std::process::id());
    let cgroup = Cgroup::create(&parent, &name).unwrap();
    let (mut rx, tx) = std::io::pipe().unwrap();
    let child = Command::new("sh")
        .args(["-c", "setsid sleep 1000 & echo started"])
        .stdout(OwnedFd::from(tx))
        .cgroup(&cgroup)
        .spawn()
        .unwrap();
    child.wait().unwrap();
    assert!(cgroup.is_populated().unwrap());
    let path = cgroup.path().to_owned();
    cgroup.destroy(soon()).unwrap();
    let mut text = String::new();
    rx.read_to_string(&mut text).unwrap();
    assert_eq!(text, "started\n");
    assert!(!path.exists());
    let _ = std::fs::remove_dir(parent);
}
