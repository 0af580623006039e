//! Memory of the host for an idle guest. The only test of its process, whose memory it measures.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod script;

use std::fs;
use std::os::unix::net::UnixStream;

use script::{Script, soon};
use vsock_host::Reactor;

/// This process's memory, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn an_idle_guest_costs_less_than_64_kib() {
    let reactor = Reactor::start().unwrap();
    let connect = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script = Script::new(theirs).greet_in_background();
        let guest = reactor.adopt(ours, soon()).unwrap();
        (guest, script.join().unwrap())
    };
    let _first = connect();
    let before = resident();
    let guests: Vec<_> = (0..400).map(|_| connect()).collect();
    let each = resident().saturating_sub(before) / guests.len() as u64;
    assert!(each < 64 << 10, "{each} bytes for each guest");
}
