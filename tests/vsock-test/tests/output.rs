//! Output: large, from many commands, and read slowly.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::thread;

use sha2::{Digest, Sha256};
use vsock_host::{Event, Guest, Reactor};
use vsock_proto::{Exec, Stream, StreamTotal, WINDOW};
use vsock_test::{Pair, argv, code, run, shell, soon};

/// The capacity of a pipe.
const PIPE: u64 = 64 << 10;

/// The number of bytes that a process has written.
fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn output_may_have_any_bytes() {
    let pair = Pair::new();
    let output = run(&pair.guest, shell(r"printf '\377\000\303'; printf '\251' >&2"));
    assert_eq!(output.stdout, [0xff, 0, 0xc3]);
    assert_eq!(output.stderr, [0xa9]);
}

#[test]
fn bytes_over_the_cap_are_counted_and_dropped() {
    let pair = Pair::new();
    let exec = shell("head -c 1000000 /dev/zero; echo gone >&2");
    let output = run(&pair.guest, Exec { stdout_cap: Some(10), stderr_cap: Some(0), ..exec });
    assert_eq!(output.stdout, [0; 10]);
    assert_eq!(output.stderr, []);
    assert_eq!(output.exit.stdout, StreamTotal { sent: 10, dropped: 999_990 });
    assert_eq!(output.exit.stderr, StreamTotal { sent: 0, dropped: 5 });
}

#[test]
fn a_command_blocks_on_its_reader_and_pings_pass() {
    let pair = Pair::new();
    let execution =
        pair.guest.exec(argv(&["head", "-c", "100000000", "/dev/zero"]), soon()).unwrap();
    let Ok(Event::Output { data, .. }) = execution.next(Some(soon())) else {
        panic!("no output");
    };
    for _ in 0..100 {
        pair.guest.ping(soon()).unwrap();
    }
    assert!(written(execution.pid().unwrap()) <= data.len() as u64 + WINDOW + PIPE);
    let exit = execution.wait(Some(soon())).unwrap();
    assert_eq!(exit.stdout.sent, 100_000_000);
}

/// What a command leaves in its pipe without credit was once taken for the end of its output.
#[test]
fn output_of_an_ended_command_can_still_be_read() {
    let pair = Pair::new();
    let length = (WINDOW + PIPE).to_string();
    let execution = pair.guest.exec(argv(&["head", "-c", &length, "/dev/zero"]), soon()).unwrap();
    let is_over = || {
        pair.guest.ping(soon()).unwrap();
        !Path::new("/proc").join(execution.pid().unwrap().to_string()).exists()
    };
    while !is_over() {}
    assert_eq!(execution.wait(Some(soon())).unwrap().stdout.sent, WINDOW + PIPE);
}

#[test]
fn an_unread_stream_does_not_block_other_commands() {
    let pair = Pair::new();
    let noisy = pair.guest.exec(argv(&["yes"]), soon()).unwrap();
    assert_eq!(run(&pair.guest, shell("exit 5")).exit.outcome, code(5));
    noisy.cancel(soon()).unwrap();
    assert_eq!(noisy.wait(Some(soon())).unwrap().outcome.exit_code(), 137);
}

/// A piece of the file, other for each number, as a command's output; its hash.
fn hash_of_piece(guest: &Guest, path: &str, number: usize, length: usize) -> [u8; 32] {
    let script = format!("tail -c +{} {path} | head -c {length}", 1 + number);
    let execution = guest.exec(shell(&script), soon()).unwrap();
    let mut hash = Sha256::new();
    while let Event::Output { stream: Stream::Stdout, data } = execution.next(Some(soon())).unwrap()
    {
        hash.update(data);
    }
    hash.finalize().into()
}

#[test]
fn fifty_guests_send_20_mib_each_through_one_reactor() {
    const LENGTH: usize = 20 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes");
    let bytes: Vec<u8> = (0..(LENGTH + 50) as u32)
        .map(|number| (number.wrapping_mul(0x9e37_79b1) >> 24) as u8)
        .collect();
    fs::write(&path, &bytes).unwrap();
    let reactor = Reactor::start().unwrap();
    let pairs: Vec<Pair> = (0..50).map(|_| Pair::on(&reactor)).collect();
    let (path, bytes) = (path.to_str().unwrap(), &bytes[..]);
    thread::scope(|scope| {
        for (number, pair) in pairs.iter().enumerate() {
            scope.spawn(move || {
                let expected: [u8; 32] = Sha256::digest(&bytes[number..][..LENGTH]).into();
                assert!(hash_of_piece(&pair.guest, path, number, LENGTH) == expected);
            });
        }
    });
}

#[test]
fn a_cancel_drops_unread_output_of_an_ended_command() {
    let pair = Pair::new();
    // It fills the window and a part of the pipe, and ends.
    let script = format!("head -c {} /dev/zero", WINDOW + 9);
    let execution = pair.guest.exec(shell(&script), soon()).unwrap();
    let process = format!("/proc/{}", execution.pid().unwrap());
    while Path::new(&process).exists() {
        pair.guest.ping(soon()).unwrap();
    }
    execution.cancel(soon()).unwrap();
    pair.guest.ping(soon()).unwrap();
    let output = execution.output(1 << 20, Some(soon())).unwrap();
    assert_eq!(output.stdout.len() as u64, WINDOW);
    assert_eq!(output.exit.outcome, code(0));
}
