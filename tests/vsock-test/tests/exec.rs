//! Commands: how they start, what they are given, how they end.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::thread;
use std::time::Duration;

use serde_bytes::ByteBuf;
use vsock_guest::Config;
use vsock_host::{Error, Event};
use vsock_proto::{Exec, Outcome, PtySize, Stream, Timeout};
use vsock_test::{Cgroups, Lifeline, Pair, argv, code, config, on_terminal, run, shell, soon};

#[test]
fn stdout_stderr_and_the_exit_code_are_returned() {
    let pair = Pair::new();
    let output = run(&pair.guest, shell("echo out; echo err >&2; exit 7"));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.exit.outcome, code(7));
}

#[test]
fn a_missing_program_is_an_outcome_and_not_an_error() {
    let pair = Pair::new();
    let execution = pair.guest.exec(argv(&["no-such-program"]), soon()).unwrap();
    assert_eq!(execution.pid(), None);
    let exit = execution.wait(Some(soon())).unwrap();
    assert_eq!(exit.outcome.exit_code(), 127);
}

#[test]
fn the_largest_environment_of_linux_is_passed_on() {
    let pair = Pair::new();
    let variable =
        |at: usize| (ByteBuf::from(format!("BIG_{at}")), ByteBuf::from(vec![b'x'; 100_000]));
    let env: Vec<_> = (0..20).map(variable).collect();
    let output = run(&pair.guest, Exec { env, ..shell("env | grep ^BIG_ | wc") });
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<&str> = text.split_whitespace().collect();
    // 20 lines of `BIG_n=…`, whose numbers have 10 times one digit and 10 times two.
    assert_eq!(numbers, ["20", "20", "2000150"]);
}

#[test]
fn an_environment_beyond_the_limit_fails_the_command_only() {
    let pair = Pair::new();
    let start = |count: usize| {
        let variable =
            |at: usize| (ByteBuf::from(format!("V{at}")), ByteBuf::from(vec![b'x'; 100_000]));
        let env: Vec<_> = (0..count).map(variable).collect();
        let execution = pair.guest.exec(Exec { env, ..argv(&["true"]) }, soon()).unwrap();
        execution.wait(Some(soon())).unwrap().outcome
    };
    let Outcome::FailedToStart { message, .. } = start(22) else { panic!("it started") };
    assert_eq!(message, "cannot start `true`: argument list too long");
    let Outcome::FailedToStart { message, .. } = start(60) else { panic!("it started") };
    assert_eq!(message, "the command has over 4194304 bytes of arguments");
    assert_eq!(run(&pair.guest, shell("exit 3")).exit.outcome, code(3));
}

#[test]
fn commands_run_at_the_same_time() {
    let pair = Pair::new();
    let echo = || Exec { stdin: true, ..argv(&["cat"]) };
    let all: Vec<_> = (0..50).map(|_| pair.guest.exec(echo(), soon()).unwrap()).collect();
    // The last first: none can have waited for another's end.
    let answers: Vec<Vec<u8>> = all
        .iter()
        .enumerate()
        .rev()
        .map(|(number, execution)| {
            execution.write_stdin(number.to_string().as_bytes(), Some(soon())).unwrap();
            execution.close_stdin(soon()).unwrap();
            execution.output(100, Some(soon())).unwrap().stdout
        })
        .collect();
    let expected: Vec<Vec<u8>> =
        (0..50).rev().map(|number: u8| number.to_string().into()).collect();
    assert_eq!(answers, expected);
}

#[test]
fn threads_share_a_guest() {
    let pair = Pair::new();
    let codes: Vec<u8> = thread::scope(|scope| {
        let start = |number: u8| {
            let guest = pair.guest.clone();
            scope.spawn(move || {
                run(&guest, shell(&format!("exit {number}"))).exit.outcome.exit_code()
            })
        };
        let threads: Vec<_> = (0..20).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes, (0..20).collect::<Vec<u8>>());
}

#[test]
fn arguments_and_environment_may_have_any_bytes() {
    let pair = Pair::new();
    let bytes = ByteBuf::from(b"\xff\xfe'$(x)\n".to_vec());
    let mut exec = shell("printf %s \"$1\"; printenv NAME");
    exec.argv.extend([ByteBuf::from("sh"), bytes.clone()]);
    exec.env.push((ByteBuf::from("NAME"), bytes.clone()));
    let expected = [&bytes[..], &bytes[..], b"\n"].concat();
    assert_eq!(run(&pair.guest, exec).stdout, expected);
}

#[test]
fn binary_input_is_passed_on_while_output_is_read() {
    let pair = Pair::new();
    let exec = Exec { stdin: true, ..argv(&["cat"]) };
    let execution = pair.guest.exec(exec, soon()).unwrap();
    let sent: Vec<u8> = (0..10_000_000_u32).map(|number| (number % 251) as u8).collect();
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            execution.write_stdin(&sent, Some(soon())).unwrap();
            execution.close_stdin(soon()).unwrap();
        });
        execution.output(sent.len(), Some(soon())).unwrap()
    });
    assert!(output.stdout == sent);
}

#[test]
fn unread_input_of_a_command_does_not_block_others() {
    let pair = Pair::new();
    let exec = Exec { stdin: true, ..shell("head -c 3; exec <&-; echo; read never; exit 4") };
    let execution = pair.guest.exec(exec, soon()).unwrap();
    let sent = execution.write_stdin(&vec![b'x'; 10_000_000], Some(soon()));
    let output = execution.output(100, Some(soon())).unwrap();
    assert_eq!(output.stdout, b"xxx\n");
    assert_eq!(output.exit.outcome, code(4));
    assert!(matches!(sent, Ok(()) | Err(Error::InputClosed { .. })));
    let late = execution.write_stdin(b"late", Some(soon()));
    assert!(matches!(late, Err(Error::InputClosed { program }) if program == "/bin/sh"));
}

#[test]
fn a_command_without_input_finds_it_empty() {
    let pair = Pair::new();
    let output = run(&pair.guest, argv(&["cat"]));
    assert_eq!(output.exit.outcome, code(0));
}

#[test]
fn a_time_out_of_the_command_is_its_outcome() {
    let pair = Pair::new();
    let timeout = Some(Timeout::new(Duration::from_millis(100)));
    let output = run(&pair.guest, Exec { timeout, ..shell("echo before; sleep 1000") });
    assert_eq!(output.stdout, b"before\n");
    assert_eq!(output.exit.outcome, Outcome::TimedOut);
}

#[test]
fn a_time_out_of_the_caller_names_its_phase_and_leaves_the_command() {
    let pair = Pair::new();
    let exec = Exec { stdin: true, ..shell("read line; echo $line") };
    let execution = pair.guest.exec(exec, soon()).unwrap();
    let error = execution.wait(Some(std::time::Instant::now())).unwrap_err();
    let text = "timed out after 0.0 s waiting for the guest to finish `/bin/sh`";
    assert_eq!(error.to_string(), text);
    execution.write_stdin(b"still here\n", Some(soon())).unwrap();
    assert_eq!(execution.output(100, Some(soon())).unwrap().stdout, b"still here\n");
}

#[test]
#[ignore = "needs root and cgroup v2"]
fn a_time_out_kills_a_grandchild_that_left_the_session() {
    let (cgroups, lifeline) = (Cgroups::new(), Lifeline::new());
    let pair = Pair::with(Config { cgroups: Some(cgroups.path().into()), ..config() });
    let timeout = Some(Timeout::new(Duration::from_millis(300)));
    let script = format!("exec 3>{}; setsid sleep 1000 & sleep 1000", lifeline.path().display());
    let output = run(&pair.guest, Exec { timeout, ..shell(&script) });
    assert_eq!(output.exit.outcome, Outcome::TimedOut);
    assert!(lifeline.is_cut_soon());
}

#[test]
#[ignore = "needs root and cgroup v2"]
fn the_end_of_a_connection_kills_a_grandchild_that_left_the_session() {
    let (cgroups, lifeline) = (Cgroups::new(), Lifeline::new());
    let pair = Pair::with(Config { cgroups: Some(cgroups.path().into()), ..config() });
    let script =
        format!("exec 3>{}; setsid sleep 1000 & echo; sleep 1000", lifeline.path().display());
    let execution = pair.guest.exec(shell(&script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    pair.guest.close();
    assert!(lifeline.is_cut_soon());
}

#[test]
#[ignore = "needs root and cgroup v2 with its memory controller"]
fn oom_kills_are_counted_for_their_own_command_only() {
    let cgroups = Cgroups::new();
    let pair = Pair::with(Config { cgroups: Some(cgroups.path().into()), ..config() });
    run(&pair.guest, argv(&["true"]));
    if std::fs::write(cgroups.path().join("memory.max"), "32M").is_err() {
        return host_test::skip("no memory controller");
    }
    let bystander = pair.guest.exec(Exec { stdin: true, ..argv(&["cat"]) }, soon()).unwrap();

    let hungry = run(&pair.guest, shell("tail /dev/zero | cat; exit 3")).exit;
    let modest = run(&pair.guest, argv(&["true"])).exit;
    bystander.close_stdin(soon()).unwrap();

    // That a descendant was killed is no part of how a command ends.
    assert_eq!((hungry.outcome, hungry.oom_kills), (code(3), 1));
    assert_eq!((modest.outcome, modest.oom_kills), (code(0), 0));
    assert_eq!(bystander.wait(Some(soon())).unwrap().oom_kills, 0);
}

#[test]
fn an_orphan_that_holds_the_output_does_not_delay_the_end() {
    let (pair, lifeline) = (Pair::new(), Lifeline::new());
    let script = format!("exec 3>{}; sleep 1000 & echo $!; exit 3", lifeline.path().display());
    let output = run(&pair.guest, shell(&script));
    assert_eq!(output.exit.outcome, code(3));
    assert!(!lifeline.is_cut());
    let orphan = String::from_utf8(output.stdout).unwrap();
    run(&pair.guest, argv(&["kill", "-9", orphan.trim()]));
    assert!(lifeline.is_cut_soon());
}

#[test]
fn output_of_an_orphan_follows_the_end_of_a_followed_command() {
    let pair = Pair::new();
    let script = "exec 3<&0; echo own; cat <&3 & exit 3";
    let exec = Exec { stdin: true, follow_descendants: true, ..shell(script) };
    let execution = pair.guest.exec(exec, soon()).unwrap();
    let next = || execution.next(Some(soon())).unwrap();
    let output = |text: &str| Event::Output { stream: Stream::Stdout, data: text.into() };
    assert_eq!(next(), output("own\n"));
    assert!(matches!(next(), Event::Ended(exit) if exit.outcome == code(3)));
    execution.write_stdin(b"later", Some(soon())).unwrap();
    execution.close_stdin(soon()).unwrap();
    assert_eq!(next(), output("later"));
    assert!(matches!(next(), Event::Exit(exit) if exit.outcome == code(3)));
}

#[test]
fn a_cancelled_command_ends_with_its_children() {
    let (pair, lifeline) = (Pair::new(), Lifeline::new());
    let script = format!("exec 3>{}; echo; sleep 1000 & sleep 1000", lifeline.path().display());
    let execution = pair.guest.exec(shell(&script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    execution.cancel(soon()).unwrap();
    assert_eq!(execution.wait(Some(soon())).unwrap().outcome, Outcome::Cancelled);
    assert!(lifeline.is_cut_soon());
}

#[test]
fn dropping_an_execution_ends_its_command() {
    let (pair, lifeline) = (Pair::new(), Lifeline::new());
    let script = format!("exec 3>{}; echo; sleep 1000", lifeline.path().display());
    let execution = pair.guest.exec(shell(&script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    drop(execution);
    assert!(lifeline.is_cut_soon());
}

#[test]
fn a_signal_reaches_the_command() {
    let pair = Pair::new();
    let execution = pair.guest.exec(argv(&["sleep", "1000"]), soon()).unwrap();
    execution.signal(15, soon()).unwrap();
    let exit = execution.wait(Some(soon())).unwrap();
    assert_eq!(exit.outcome, Outcome::Signalled { signal: 15, core_dumped: false });
}

#[test]
fn a_terminal_has_the_requested_size() {
    let pair = Pair::new();
    let output = run(&pair.guest, on_terminal("stty size"));
    assert_eq!(output.stdout, b"33 111\r\n");
}

#[test]
fn a_terminal_can_be_resized() {
    let pair = Pair::new();
    let script = "stty -echo; echo ready; read line; stty size";
    let execution = pair.guest.exec(on_terminal(script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    execution.resize(PtySize { rows: 40, columns: 100 }, soon()).unwrap();
    execution.write_stdin(b"\n", Some(soon())).unwrap();
    assert_eq!(execution.output(100, Some(soon())).unwrap().stdout, b"40 100\r\n");
}

#[test]
fn control_d_ends_the_input_of_a_terminal() {
    let pair = Pair::new();
    let execution = pair.guest.exec(on_terminal("stty -echo; echo ready; cat"), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    execution.write_stdin(b"typed\n\x04", Some(soon())).unwrap();
    let output = execution.output(100, Some(soon())).unwrap();
    assert_eq!(output.stdout, b"typed\r\n");
    assert_eq!(output.exit.outcome, code(0));
}

#[test]
fn a_signal_on_a_terminal_goes_to_the_job_in_its_foreground() {
    let pair = Pair::new();
    let script = "set -m; sh -c 'echo ready; exec sleep 1000'; echo code $?";
    let execution = pair.guest.exec(on_terminal(script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    execution.signal(15, soon()).unwrap();
    let output = execution.output(100, Some(soon())).unwrap();
    assert!(output.stdout.ends_with(b"code 143\r\n"));
    assert_eq!(output.exit.outcome, code(0));
}
