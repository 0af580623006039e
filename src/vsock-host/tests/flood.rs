//! Memory of the host for a guest that uses all its credit. The only test of its process, whose
//! memory it measures.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod script;

use std::fs;

use script::{command, guest, soon, stdout};
use vsock_host::Reactor;
use vsock_proto::{GuestBody, Stream, WINDOW};

/// This process's memory, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_flood_of_single_bytes_costs_little_more_than_its_windows() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.start_command();
        for _ in 0..WINDOW {
            script.send(id, stdout(b"o"));
            script.send(id, GuestBody::Data(Stream::Stderr, b"e"));
        }
        let id = script.request();
        script.send(id, GuestBody::Done);
        script.wait_closed();
    });
    let execution = guest.exec(command("flood"), soon()).unwrap();
    let before = resident();
    // The answer comes after the flood, so all of the flood has arrived.
    guest.ping(soon() + std::time::Duration::from_secs(50)).unwrap();
    assert!(resident().saturating_sub(before) < 4 << 20);
    drop(execution);
}
