//! What an idle stream of a command costs in the server of sandboxes: see README.md beside this file.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

#[path = "../src/sandbox-api/tests/clients/harness.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod harness;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use self::harness::{Created, Lab, script, until};

/// A sandbox runs so many commands at most.
const COMMANDS: usize = 250;

const SANDBOXES: usize = 4;

fn main() {
    let lab = Lab::new(script());
    // What all share is there before the first measurement.
    let first = lab.create();
    let mut streams: Vec<_> = (0..20).map(|_| open(&lab, &first)).collect();
    let sandboxes: Vec<_> = (0..SANDBOXES).map(|_| lab.create()).collect();
    let before = resident();
    for sandbox in &sandboxes {
        streams.extend((0..COMMANDS).map(|_| open(&lab, sandbox)));
    }
    let each = resident().saturating_sub(before) / (SANDBOXES * COMMANDS) as u64;
    println!("memory of a command with an idle stream, KiB  {each:>7}");
}

/// Starts a command, and waits until its stream is idle.
fn open(lab: &Lab, sandbox: &Created) -> TcpStream {
    let mut client = lab.connect();
    client.write_all(&sandbox.start("sleep")).unwrap();
    until(&mut client, "\"pid\":");
    until(&mut client, "}\r\n");
    client
}

/// KiB of this process's resident memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
