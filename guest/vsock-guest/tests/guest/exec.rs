//! Commands: streams, signals, time-outs, descendants.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use crate::host::{Answer, Host, Run, argv, config, shell};
use serde_bytes::ByteBuf;
use vsock_guest::{Config, End, Error};
use vsock_proto::{Exec, HostBody, Outcome, PtySize, Stream, StreamTotal, Timeout, User, WINDOW};

fn outcome(run: Run) -> Outcome {
    run.exit.unwrap().outcome
}

/// Waits for the end of a process that is not a child of this one.
fn has_ended(pid: u32) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    while Instant::now() < deadline {
        match std::fs::read_to_string(&stat) {
            Ok(text) if !text.contains(") Z ") => std::thread::yield_now(),
            _ => return true,
        }
    }
    false
}

#[test]
fn both_streams_and_the_exit_code_come_back() {
    let run = Host::connected().run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!(run.stdout, b"out\n");
    assert_eq!(run.stderr, b"err\n");
    let exit = run.exit.unwrap();
    assert_eq!(exit.outcome, Outcome::Exited { code: 7 });
    assert_eq!(exit.stdout, StreamTotal { sent: 4, dropped: 0 });
    assert!(exit.duration_us > 0);
}

#[test]
fn output_need_not_be_text() {
    let run = Host::connected().run(shell(r"printf '\377\000\376'"));
    assert_eq!(run.stdout, [0xff, 0, 0xfe]);
}

#[test]
fn a_missing_program_is_named() {
    let run = Host::connected().run(Exec { argv: argv(&["no-such-program"]), ..Exec::default() });
    let expected = Outcome::FailedToStart {
        is_missing: true,
        message: "cannot start `no-such-program`: no such file or directory".into(),
    };
    assert_eq!(outcome(run), expected);
}

#[test]
fn a_missing_folder_is_named_and_not_taken_for_a_missing_program() {
    let cwd = Some(ByteBuf::from("/no/such/folder"));
    let run = Host::connected().run(Exec { cwd, ..shell("true") });
    let expected = Outcome::FailedToStart {
        is_missing: false,
        message: "cannot start `/bin/sh` in /no/such/folder: no such file or directory".into(),
    };
    assert_eq!(outcome(run), expected);
}

#[test]
fn a_missing_interpreter_is_told_from_a_missing_script() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let cwd = Some(ByteBuf::from(folder.path().as_os_str().as_bytes()));
    let run = Host::connected().run(Exec { cwd, argv: argv(&["./script"]), ..Exec::default() });
    let expected = Outcome::FailedToStart {
        is_missing: true,
        message: "cannot start `./script`: the interpreter that it needs is not there".into(),
    };
    assert_eq!(outcome(run), expected);
}

#[test]
fn no_program_at_all_fails_to_start() {
    let run = Host::connected().run(Exec::default());
    assert!(matches!(outcome(run), Outcome::FailedToStart { .. }));
}

#[test]
fn an_unknown_user_fails_to_start() {
    let run = Host::connected()
        .run(Exec { user: Some(User::Name("no such user".into())), ..shell("true") });
    assert!(matches!(outcome(run), Outcome::FailedToStart { .. }));
}

#[test]
fn environment_and_folder_are_those_of_the_request() {
    let run = Host::connected().run(Exec {
        env: vec![(ByteBuf::from("A"), ByteBuf::from("b c"))],
        cwd: Some(ByteBuf::from("/usr")),
        ..shell("echo $A; pwd")
    });
    assert_eq!(run.stdout, b"b c\n/usr\n");
}

#[test]
fn input_is_empty_unless_it_is_announced() {
    let run = Host::connected().run(shell("cat"));
    assert_eq!(outcome(run), Outcome::Exited { code: 0 });
}

#[test]
fn a_grandchild_that_holds_the_pipe_delays_nothing() {
    let start = Instant::now();
    let run = Host::connected().run(shell("sleep 30 & echo $!"));
    assert!(start.elapsed() < Duration::from_secs(10));
    let orphan = String::from_utf8(run.stdout).unwrap();
    let kill = shell(&format!("kill {orphan}"));
    assert_eq!(outcome(Host::connected().run(kill)), Outcome::Exited { code: 0 });
}

#[test]
fn a_grandchild_that_goes_on_writing_delays_nothing() {
    let run = Host::connected().run(shell("yes & exit 3"));
    assert_eq!(outcome(run), Outcome::Exited { code: 3 });
}

/// A folder with the FIFOs `go` and `done`, for synchronization with a command's descendants.
fn meeting_point() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["go", "done"] {
        nix::unistd::mkfifo(&folder.path().join(name), Mode::S_IRWXU).unwrap();
    }
    folder
}

fn in_folder(folder: &TempDir, script: &str) -> Exec {
    let cwd = Some(ByteBuf::from(folder.path().as_os_str().as_bytes()));
    Exec { cwd, ..shell(script) }
}

#[test]
fn a_process_that_outlives_its_command_goes_on_writing() {
    let folder = meeting_point();
    let mut host = Host::connected();
    // More than a pipe holds, on each stream.
    let flood = "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2";
    let script = format!("(read line < go; {flood}; echo alive > done) &");
    let run = host.run(in_folder(&folder, &script));
    assert_eq!(outcome(run), Outcome::Exited { code: 0 });
    let met = host.run(in_folder(&folder, "echo > go; timeout 10 cat done"));
    assert_eq!(met.stdout, b"alive\n");
}

fn followed(folder: &TempDir, script: &str) -> Exec {
    Exec { follow_descendants: true, ..in_folder(folder, script) }
}

fn ended(answer: Answer) -> Outcome {
    let Answer::Ended(exit) = answer else { panic!("{answer:?}") };
    exit.outcome
}

#[test]
fn output_of_a_process_that_is_followed_comes_after_the_end_of_its_command() {
    let folder = meeting_point();
    let mut host = Host::connected();
    let script = "echo own; (read line < go; echo later) & exit 3";
    let id = host.request(HostBody::Exec(followed(&folder, script)));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert_eq!(host.answer_to(id), Answer::Data(Stream::Stdout, b"own\n".into()));
    assert_eq!(ended(host.answer_to(id)), Outcome::Exited { code: 3 });
    std::fs::write(folder.path().join("go"), "\n").unwrap();
    let run = host.finish(id);
    assert_eq!(run.stdout, b"later\n");
    let exit = run.exit.unwrap();
    assert_eq!(exit.outcome, Outcome::Exited { code: 3 });
    assert_eq!(exit.stdout.sent, 10);
}

#[test]
fn a_followed_command_without_descendants_exits_at_once() {
    let folder = meeting_point();
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(followed(&folder, "exec >&- 2>&-; exit 3")));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert_eq!(ended(host.answer_to(id)), Outcome::Exited { code: 3 });
    assert!(matches!(host.answer_to(id), Answer::Exit(_)));
}

#[test]
fn a_cancel_ends_what_is_followed() {
    let folder = meeting_point();
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(followed(&folder, "cat go & exit 3")));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert_eq!(ended(host.answer_to(id)), Outcome::Exited { code: 3 });
    host.send(id, HostBody::Cancel);
    assert!(matches!(host.answer_to(id), Answer::Exit(_)));
    std::fs::write(folder.path().join("go"), "\n").unwrap();
}

#[test]
fn output_stops_at_its_credit_and_holds_up_no_ping() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(shell("head -c 1000000 /dev/zero")));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    let mut received = 0;
    while received < WINDOW {
        let Answer::Data(Stream::Stdout, bytes) = host.answer_to(id) else {
            panic!("no data");
        };
        received += bytes.len() as u64;
    }
    assert_eq!(received, WINDOW);
    host.ping();
    host.send(id, HostBody::Credit(Stream::Stdout, WINDOW));
    let run = host.finish(id);
    assert_eq!(run.stdout.len() as u64 + received, 1_000_000);
    assert_eq!(run.exit.unwrap().stdout.sent, 1_000_000);
}

#[test]
fn bytes_over_the_cap_are_counted_and_dropped() {
    let run = Host::connected().run(Exec {
        stdout_cap: Some(10),
        stderr_cap: Some(0),
        ..shell("head -c 1000000 /dev/zero; echo gone >&2")
    });
    assert_eq!(run.stdout.len(), 10);
    let exit = run.exit.unwrap();
    let dropped = 999_990;
    assert_eq!(exit.stdout, StreamTotal { sent: 10, dropped });
    assert_eq!(exit.stderr, StreamTotal { sent: 0, dropped: 5 });
}

#[test]
fn input_comes_back_through_a_pipe() {
    let mut host = Host::connected();
    let id =
        host.request(HostBody::Exec(Exec { stdin: true, argv: argv(&["cat"]), ..Exec::default() }));
    let sent: Vec<u8> = (0..WINDOW).map(|number| (number % 251) as u8).collect();
    host.send(id, HostBody::Data(&sent));
    host.send(id, HostBody::End);
    let run = host.finish(id);
    assert!(run.stdout == sent);
    assert_eq!(outcome(run), Outcome::Exited { code: 0 });
}

#[test]
fn credit_is_granted_for_input_that_the_command_closed() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(Exec {
        stdin: true,
        ..shell("exec 0<&-; echo closed; sleep 100")
    }));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert!(matches!(host.answer_to(id), Answer::Data(..)));
    host.send(id, HostBody::Data(&vec![0; WINDOW as usize]));
    assert_eq!(host.answer_to(id), Answer::Credit(WINDOW));
}

#[test]
fn input_over_its_credit_ends_the_connection() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(Exec { stdin: true, ..shell("sleep 100") }));
    let too_much = vec![0; 2 * WINDOW as usize];
    host.send(id, HostBody::Data(&too_much));
    assert!(matches!(host.end(), Err(Error::Protocol { .. })));
}

#[test]
fn a_command_that_runs_too_long_is_killed() {
    let run = Host::connected().run(Exec {
        timeout: Some(Timeout::new(Duration::from_millis(500))),
        ..shell("echo before; sleep 100")
    });
    assert_eq!(run.stdout, b"before\n");
    let exit = run.exit.unwrap();
    assert_eq!(exit.outcome, Outcome::TimedOut);
    assert!((500_000..10_000_000).contains(&exit.duration_us));
}

#[test]
fn a_timeout_longer_than_the_clock_never_comes() {
    let run = Host::connected()
        .run(Exec { timeout: Some(Timeout::new(Duration::MAX)), ..shell("exit 1") });
    assert_eq!(outcome(run), Outcome::Exited { code: 1 });
}

#[test]
fn a_cancelled_command_says_so() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(shell("sleep 100")));
    host.send(id, HostBody::Cancel);
    assert_eq!(outcome(host.finish(id)), Outcome::Cancelled);
}

#[test]
fn a_signal_reaches_the_command() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(shell("exec sleep 100")));
    host.send(id, HostBody::Signal(15));
    let expected = Outcome::Signalled { signal: 15, core_dumped: false };
    assert_eq!(outcome(host.finish(id)), expected);
}

#[test]
fn a_lost_connection_kills_its_commands() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(shell("sleep 1000")));
    let Answer::Started(pid) = host.answer_to(id) else {
        panic!("not started");
    };
    let was_welcome = true;
    assert_eq!(host.close().unwrap(), End::Disconnected { was_welcome });
    assert!(has_ended(pid));
}

#[test]
fn many_commands_run_at_once() {
    let mut host = Host::connected();
    let commands: Vec<_> = (0..30)
        .map(|code| host.request(HostBody::Exec(shell(&format!("sleep 0.2; exit {code}")))))
        .collect();
    let mut codes = Vec::new();
    while codes.len() < commands.len() {
        if let (_, Answer::Exit(exit)) = host.answer() {
            codes.push(exit.outcome.exit_code());
        }
    }
    codes.sort_unstable();
    assert_eq!(codes, (0..30).collect::<Vec<u8>>());
}

fn on_terminal(script: &str) -> Exec {
    Exec { stdin: true, pty: Some(PtySize { rows: 33, columns: 111 }), ..shell(script) }
}

#[test]
fn a_terminal_has_its_size_and_a_type() {
    let run = Host::connected().run(on_terminal("stty size; echo $TERM; exit 3"));
    assert_eq!(run.stdout, b"33 111\r\nxterm-256color\r\n");
    assert_eq!(outcome(run), Outcome::Exited { code: 3 });
}

#[test]
fn a_terminal_can_be_resized() {
    let mut host = Host::connected();
    let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done";
    let id = host.request(HostBody::Exec(on_terminal(script)));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert!(matches!(host.answer_to(id), Answer::Data(..)));
    let (rows, columns) = (40, 100);
    host.send(id, HostBody::Resize(PtySize { rows, columns }));
    assert_eq!(host.finish(id).stdout, b"40 100\r\n");
}

#[test]
fn the_end_of_input_reaches_a_terminal_in_the_middle_of_a_line() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(on_terminal("stty -echo; echo ready; cat")));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert_eq!(host.answer_to(id), Answer::Data(Stream::Stdout, b"ready\r\n".to_vec()));
    host.send(id, HostBody::Data(b"one\ntwo"));
    host.send(id, HostBody::End);
    let run = host.finish(id);
    assert_eq!(run.stdout, b"one\r\ntwo");
    assert_eq!(outcome(run), Outcome::Exited { code: 0 });
}

#[test]
fn a_signal_on_a_terminal_goes_to_its_foreground() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(on_terminal(
        "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done",
    )));
    assert!(matches!(host.answer_to(id), Answer::Started(_)));
    assert!(matches!(host.answer_to(id), Answer::Data(..)));
    host.send(id, HostBody::Signal(2));
    let run = host.finish(id);
    assert_eq!(run.stdout, b"caught\r\n");
    assert_eq!(outcome(run), Outcome::Exited { code: 4 });
}

#[test]
fn a_grandchild_that_holds_the_terminal_delays_nothing_though_credit_comes_late() {
    let mut host = Host::connected();
    // The command ends with all credit spent and an empty pipe.
    let script = format!("trap '' HUP; sleep 10 & head -c {WINDOW} /dev/zero | tr '\\0' x");
    let id = host.request(HostBody::Exec(on_terminal(&script)));
    let Answer::Started(pid) = host.answer_to(id) else { panic!("it did not start") };
    let mut count = 0;
    while count < WINDOW {
        let Answer::Data(_, bytes) = host.answer_to(id) else { panic!("it ended early") };
        count += bytes.len() as u64;
    }
    assert!(has_ended(pid));
    host.ping();
    let start = Instant::now();
    host.send(id, HostBody::Credit(Stream::Stdout, WINDOW));
    assert!(host.finish(id).exit.is_some());
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
#[ignore = "needs root and cgroup v2"]
fn a_timeout_kills_a_grandchild_that_left_the_session() {
    let parent =
        process::mount_point().unwrap().join(format!("vsock-guest-test-{}", std::process::id()));
    let mut host = Host::connected_with(Config { cgroups: Some(parent.clone()), ..config() });
    let run = host.run(Exec {
        timeout: Some(Timeout::new(Duration::from_millis(300))),
        ..shell("setsid sh -c 'echo $$; exec sleep 1000'; sleep 1000")
    });
    assert_eq!(run.exit.unwrap().outcome, Outcome::TimedOut);
    let grandchild = String::from_utf8(run.stdout).unwrap();
    assert!(has_ended(grandchild.trim().parse().unwrap()));
    host.ping();
    host.close().unwrap();
    std::fs::remove_dir(&parent).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_user_has_its_home_and_no_groups_of_the_service() {
    let run = Host::connected().run(Exec {
        user: Some(User::Name("nobody".into())),
        ..shell("id -un; id -G; echo $HOME")
    });
    assert_eq!(run.stdout, b"nobody\n65534\n/nonexistent\n");
}

#[test]
#[ignore = "needs root"]
fn a_user_opens_its_standard_streams_by_name() {
    let mut host = Host::connected();
    let script = "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr; echo fd > /dev/fd/1";
    let user = Some(User::Ids { uid: 65534, gid: 65534 });
    let id = host.request(HostBody::Exec(Exec { user, stdin: true, ..shell(script) }));
    host.send(id, HostBody::Data(b"in\n"));
    host.send(id, HostBody::End);
    let run = host.finish(id);
    assert_eq!(String::from_utf8(run.stderr).unwrap(), "err\n");
    assert_eq!(run.stdout, b"in\nfd\n");
}
