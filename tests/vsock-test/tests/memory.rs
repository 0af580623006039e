//! Memory that slowly read output costs both ends. The only test of its process, which it measures.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use vsock_host::Event;
use vsock_test::{Pair, argv, code, soon};

/// The most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

#[test]
fn a_slow_reader_of_100_mib_uses_no_memory_and_delays_no_ping() {
    let pair = Pair::new();
    pair.guest.ping(soon()).unwrap();
    let before = peak();
    let exec = argv(&["head", "-c", "104857600", "/dev/zero"]);
    let execution = pair.guest.exec(exec, soon()).unwrap();
    let mut total = 0;
    let exit = loop {
        pair.guest.ping(soon()).unwrap();
        match execution.next(Some(soon())).unwrap() {
            Event::Output { data, .. } => total += data.len(),
            Event::Ended(_) => {}
            Event::Exit(exit) => break exit,
        }
    };
    assert_eq!(exit.outcome, code(0));
    assert_eq!(total, 100 << 20);
    assert!(peak() - before < 4 << 20, "{} bytes more", peak() - before);
}
