//! Processes of scripted sandboxes.

use std::time::{Duration, Instant};

use base::event::Event as Wake;
use sandbox::fake::{Factory, Manner, Script, config};
use sandbox::{Cancellation, SandboxFactory as _, Stream};

use super::*;
use crate::testing::ManualClock;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn start(factory: &Factory) -> Box<dyn Sandbox> {
    factory.start(&config(), &Cancellation::new(), soon()).unwrap()
}

fn request(program: &str) -> StartRequest {
    let command = Command { program: program.into(), ..Command::default() };
    StartRequest { command, follows_descendants: true, ..StartRequest::default() }
}

fn processes() -> Processes {
    Processes::new(Arc::new(EventLog::new(ManualClock::new())))
}

/// That of a sandbox that runs.
fn open() -> Wake {
    Wake::new().unwrap()
}

#[test]
fn output_of_descendants_keeps_a_process_until_it_is_signalled() {
    let factory = Script::default().on("sh", &["a"], 0).leave("sh", &["b"]).factory();
    let sandbox = start(&factory);
    let processes = processes();
    let closed = open();
    let subscription = processes.start(&*sandbox, request("sh"), soon()).unwrap();
    for expected in [b"a", b"b"] {
        match subscription.next(&closed, soon()) {
            Next::Output(output) => {
                assert_eq!((output.stream, &*output.bytes), (Stream::Stdout, &expected[..]));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(subscription.next(&closed, soon()), Next::Ended(Ending::Exited(0))));
}

#[test]
fn a_program_that_is_missing_is_an_error_and_leaves_nothing() {
    let sandbox = start(&Script::default().factory());
    let processes = processes();
    let error = processes.start(&*sandbox, request("missing"), soon()).err().unwrap();
    assert!(matches!(error, Error::NotStarted { .. }), "{error}");
    assert!(processes.list().is_empty());
}

#[test]
fn processes_over_the_limit_are_refused() {
    let sandbox = start(&Script::default().hold("sleep", Manner::Polite).factory());
    let processes = processes();
    for _ in 0..MOST {
        processes.start(&*sandbox, request("sleep"), soon()).unwrap();
    }
    let error = processes.start(&*sandbox, request("sleep"), soon()).err().unwrap();
    assert!(matches!(error, Error::TooMany { limit: MOST }), "{error}");
    assert_eq!(processes.list().len(), MOST);
}

#[test]
fn a_process_ends_with_the_table_of_processes() {
    let sandbox = start(&Script::default().hold("sleep", Manner::Deaf).factory());
    let processes = processes();
    let subscription = processes.start(&*sandbox, request("sleep"), soon()).unwrap();
    drop(processes);
    let closed = open();
    assert!(matches!(subscription.next(&closed, soon()), Next::Ended(_)));
}

#[test]
fn a_subscription_tells_when_the_sandbox_is_paused_and_when_nothing_happens() {
    let sandbox = start(&Script::default().hold("sleep", Manner::Deaf).factory());
    let processes = processes();
    let subscription = processes.start(&*sandbox, request("sleep"), soon()).unwrap();
    let closed = open();
    assert!(matches!(subscription.next(&closed, Instant::now()), Next::TimedOut));
    closed.set();
    assert!(matches!(subscription.next(&closed, soon()), Next::Closed));
}

#[test]
fn the_log_has_the_start_and_the_end_of_a_process() {
    let sandbox = start(&Script::default().on("sh", &[], 3).factory());
    let processes = processes();
    let closed = open();
    let mut request = request("sh");
    request.command.arguments = vec!["-c".to_owned(), "exit 3".to_owned()];
    let subscription = processes.start(&*sandbox, request, soon()).unwrap();
    assert!(matches!(subscription.next(&closed, soon()), Next::Ended(Ending::Exited(3))));
    let pid = subscription.process().pid().to_string();

    let events = processes.log.all();

    let [started, ended] = &events[..] else { panic!("{events:?}") };
    assert_eq!((started.level, started.message), (Level::Info, "process started"));
    let expected = [(COMMAND, "sh -c exit 3".to_owned()), ("pid", pid.clone())];
    assert_eq!(started.fields, expected.into());
    assert_eq!((ended.level, ended.message), (Level::Warn, "process ended"));
    assert_eq!(ended.fields, [("pid", pid), ("status", "exit status 3".to_owned())].into());
}
