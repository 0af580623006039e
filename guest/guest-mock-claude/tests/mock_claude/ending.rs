//! Signals and a closed stdout end the program.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::{EVENTS, Fixture, MESSAGES, Running, make_fifo, shell_code};

/// A script that signals its start through the fifo and holds that open while any of its processes lives.
const SCRIPT: &str = "exec 3>alive; trap '' TERM; sleep infinity & echo started >&3; wait";

#[test]
fn sigterm_ends_the_program_with_143_while_bash_runs() {
    let fixture = Fixture::new();
    make_fifo(&fixture.work().join("alive"));
    let mut running = Running::start(&mut fixture.command(&[SCRIPT]));
    let mut alive = BufReader::new(File::open(fixture.work().join("alive")).unwrap());
    alive.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn sigterm_ends_bash_and_its_children_even_if_they_ignore_it() {
    let fixture = Fixture::new();
    make_fifo(&fixture.work().join("alive"));
    let running = Running::start(&mut fixture.command(&[SCRIPT]));
    let mut alive = BufReader::new(File::open(fixture.work().join("alive")).unwrap());
    alive.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGTERM);
    let mut rest = String::new();
    alive.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn sigint_ends_the_program_with_130_while_bash_runs() {
    let fixture = Fixture::new();
    make_fifo(&fixture.work().join("alive"));
    let mut running = Running::start(&mut fixture.command(&[SCRIPT]));
    let mut alive = BufReader::new(File::open(fixture.work().join("alive")).unwrap());
    alive.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGINT);
    assert_eq!(shell_code(running.wait()), 130);
}

#[test]
fn sigterm_ends_a_program_that_waits_for_its_second_message() {
    let fixture = Fixture::new();
    let mut running = Running::start(fixture.command(&MESSAGES).stdin(Stdio::piped()));
    running.send(r#"{"type":"user","message":{"role":"user","content":"true"}}"#);
    running.wait_for("result");
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn sigterm_ends_a_program_that_blocks_on_stdout() {
    let fixture = Fixture::new();
    let arguments = [&EVENTS[..], &["@flood:1000000"]].concat();
    let mut running = Running::start(&mut fixture.command(&arguments));
    running.wait_for("assistant");
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn a_closed_stdout_ends_the_program_quietly() {
    let fixture = Fixture::new();
    let arguments = [&EVENTS[..], &["@flood:1000000"]].concat();
    let mut child = fixture.command(&arguments).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(141));
}
