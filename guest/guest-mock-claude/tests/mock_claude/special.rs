//! The special prompts.

use std::io::Read as _;

use nix::sys::signal::Signal;

use crate::harness::{EVENTS, Fixture, Running, kill_by_number, shell_code};

fn start(fixture: &Fixture, prompt: &str) -> Running {
    Running::start(&mut fixture.command(&[&EVENTS[..], &[prompt]].concat()))
}

#[test]
fn fail_puts_its_message_on_stderr_and_into_the_result() {
    let run = Fixture::new().ask("@fail:no credit left");
    assert_eq!(run.stderr, "no credit left\n");
    assert_eq!(run.result()["result"], "no credit left");
    assert_eq!(run.result()["is_error"], true);
    assert_eq!(run.code, Some(1));
}

#[test]
fn stuck_tool_waits_for_a_web_fetch_until_it_is_ended() {
    let fixture = Fixture::new();
    let mut running = start(&fixture, "@stuck-tool");
    let tool_use = running.wait_for("assistant")["message"]["content"][0].clone();
    assert_eq!((&tool_use["type"], &tool_use["name"]), (&"tool_use".into(), &"WebFetch".into()));
    running.signal(Signal::SIGTERM);
    let mut rest = String::new();
    running.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn hang_after_result_ends_by_sigterm_only() {
    let fixture = Fixture::new();
    let mut running = start(&fixture, "@hang-after-result");
    assert_eq!(running.wait_for("result")["subtype"], "success");
    assert_eq!(running.child.try_wait().unwrap(), None);
    running.signal(Signal::SIGTERM);
    assert_eq!(shell_code(running.wait()), 143);
}

#[test]
fn deaf_ignores_sigterm() {
    let fixture = Fixture::new();
    let mut running = start(&fixture, "@deaf");
    running.wait_for("result");
    running.signal(Signal::SIGTERM);
    // If SIGTERM had ended the process, its status would not be SIGKILL.
    running.signal(Signal::SIGKILL);
    assert_eq!(shell_code(running.wait()), 137);
}

#[test]
fn orphan_pipe_leaves_a_process_that_keeps_stdout_open() {
    let fixture = Fixture::new();
    let mut running = start(&fixture, "@orphan-pipe");
    let result = running.wait_for("result")["result"].as_str().unwrap().to_owned();
    assert_eq!(running.wait().code(), Some(0));
    let pid: i32 = result.split(' ').nth(1).unwrap().parse().unwrap();
    let pipe_of_orphan = std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
    kill_by_number(pid);
    let mut rest = String::new();
    running.stdout.read_to_string(&mut rest).unwrap();
    assert!(pipe_of_orphan.to_str().unwrap().starts_with("pipe:"));
}

#[test]
fn echo_prints_its_lines_as_they_are_and_nothing_else() {
    let run = Fixture::new().ask("@echo:{\"type\":\"one\"}\nnot json\n{ \"type\":\"two\" }");
    assert_eq!(run.stdout, "{\"type\":\"one\"}\nnot json\n{ \"type\":\"two\" }\n");
    assert_eq!(run.code, Some(0));
}

#[test]
fn flood_prints_the_given_number_of_assistant_events() {
    let run = Fixture::new().ask("@flood:1000");
    let events = run.events();
    assert_eq!(events.iter().filter(|event| event["type"] == "assistant").count(), 1000);
    assert_eq!(events.len(), 1002);
    assert_eq!(run.code, Some(0));
}

#[test]
fn flood_without_a_number_is_an_error() {
    let run = Fixture::new().ask("@flood:many");
    assert_eq!(run.stderr, "error: @flood: needs a number of events, not \"many\"\n");
    assert_eq!(run.code, Some(1));
}

#[test]
fn an_unknown_special_prompt_is_a_command() {
    assert_eq!(Fixture::new().ask("@unknown").code, Some(127));
}
