//! How the program ends when somebody else wants it to.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::{EVENTS, MESSAGES, Place, Running, make_fifo, shell_code};

/// Says through the fifo that it runs, and holds that open as long as any of it lives.
const SCRIPT: &str = "exec 3>alive; trap '' TERM; sleep infinity & echo started >&3; wait";

#[test]
fn sigterm_ends_the_program_with_143_while_bash_runs() {
    let place = Place::new();
    make_fifo(&place.work().join("alive"));
    let mut running = Running::start(&mut place.command(&[SCRIPT]));
    let mut alive = BufReader::new(File::open(place.work().join("alive")).unwrap());
    alive.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn sigterm_ends_bash_and_its_children_even_if_they_ignore_it() {
    let place = Place::new();
    make_fifo(&place.work().join("alive"));
    let running = Running::start(&mut place.command(&[SCRIPT]));
    let mut alive = BufReader::new(File::open(place.work().join("alive")).unwrap());
    alive.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGTERM);
    let mut rest = String::new();
    alive.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn sigint_ends_the_program_with_130_while_bash_runs() {
    let place = Place::new();
    make_fifo(&place.work().join("alive"));
    let mut running = Running::start(&mut place.command(&[SCRIPT]));
    let mut alive = BufReader::new(File::open(place.work().join("alive")).unwrap());
    alive.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGINT);
    assert_eq!(shell_code(running.wait()), 130);
}

#[test]
fn sigterm_ends_a_program_that_waits_for_its_second_message() {
    let place = Place::new();
    let mut running = Running::start(place.command(&MESSAGES).stdin(Stdio::piped()));
    running.send(r#"{"type":"user","message":{"role":"user","content":"true"}}"#);
    running.wait_for("result");
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn sigterm_ends_a_program_whose_output_nobody_reads() {
    let place = Place::new();
    let arguments = [&EVENTS[..], &["@flood:1000000"]].concat();
    let mut running = Running::start(&mut place.command(&arguments));
    running.wait_for("assistant");
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn a_closed_stdout_ends_the_program_quietly() {
    let place = Place::new();
    let arguments = [&EVENTS[..], &["@flood:1000000"]].concat();
    let mut child = place.command(&arguments).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(141));
}
