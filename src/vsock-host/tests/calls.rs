//! Calls on a guest, and their errors if the guest misbehaves.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod script;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use script::{Script, command, exit, guest, shortly, soon, stdout};
use serde_bytes::ByteBuf;
use vsock_host::{Error, Event, Guest, Loss, Output, Phase, Reactor, TreeItem};
use vsock_proto::{
    CHUNK, Entry, EntryKind, Failure, GuestBody, GuestState, HostBody, Outcome, Read, RequestId,
    Stream, WINDOW, Write,
};

/// The text of the loss if the guest does `play` while a command runs.
fn loss_by(play: impl FnOnce(&mut Script, RequestId) + Send + 'static) -> String {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        play(&mut script, id);
        script.half_close();
        script.wait_closed();
    });
    let execution = guest.exec(command("job"), soon()).unwrap();
    let Err(Error::Lost { phase: Phase::Finish { .. }, source }) = execution.wait(Some(soon()))
    else {
        panic!("the command goes on");
    };
    thread.join().unwrap();
    match &*source {
        Loss::Protocol { source } => source.to_string(),
        loss => loss.to_string(),
    }
}

fn file(path: &str) -> Entry {
    let kind = EntryKind::File { size: 3 };
    Entry { path: ByteBuf::from(path), kind, mode: 0o644, owner: None, modified: None }
}

/// A guest that takes requests and never answers; the channel has what it took.
fn deaf(reactor: &Reactor) -> (Guest, mpsc::Receiver<String>) {
    let (sender, taken) = mpsc::channel();
    let (guest, _) =
        guest(
            reactor,
            move |mut script| {
                while script.next(|_, body| sender.send(format!("{body:?}"))).is_some() {}
            },
        );
    (guest, taken)
}

#[test]
fn a_ping_is_answered() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.request();
        script.send(id, GuestBody::Done);
        script.wait_closed();
    });
    assert!(guest.ping(soon()).unwrap() < Duration::from_secs(10));
}

#[test]
fn a_command_brings_its_output_and_its_exit() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.start_command();
        script.send(id, stdout(b"out"));
        script.send(id, GuestBody::Data(Stream::Stderr, b"\xff"));
        script.send(id, GuestBody::Exit(exit(7)));
        script.wait_closed();
    });
    let execution = guest.exec(command("job"), soon()).unwrap();
    assert_eq!(execution.pid(), Some(42));
    let output = execution.output(4, Some(soon())).unwrap();
    assert_eq!(output, Output { stdout: b"out".into(), stderr: b"\xff".into(), exit: exit(7) });
    // A second call returns the exit again.
    assert_eq!(execution.next(Some(soon())).unwrap(), Event::Exit(exit(7)));
}

#[test]
fn more_output_than_wanted_is_an_error() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.start_command();
        script.send(id, stdout(b"four"));
        script.wait_closed();
    });
    let execution = guest.exec(command("job"), soon()).unwrap();
    let error = execution.output(3, Some(soon())).unwrap_err();
    assert_eq!(error.to_string(), "`job` wrote more than 3 bytes");
}

#[test]
fn a_command_that_does_not_start_says_why_in_bounded_length() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.request();
        let outcome = Outcome::FailedToStart { is_missing: true, message: "x".repeat(1 << 19) };
        script.send(id, GuestBody::Exit(vsock_proto::Exit { outcome, ..exit(0) }));
        script.wait_closed();
    });
    let execution = guest.exec(command("job"), soon()).unwrap();
    assert_eq!(execution.pid(), None);
    let exit = execution.wait(Some(soon())).unwrap();
    assert_eq!(
        exit.outcome,
        Outcome::FailedToStart { is_missing: true, message: "x".repeat(4096) }
    );
}

#[test]
fn input_goes_as_far_as_there_is_credit_and_on_when_there_is_more() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        let mut left = 2 * WINDOW;
        while left > 0 {
            let count = script.expect(|_, body| match body {
                HostBody::Data(bytes) => bytes.len() as u64,
                other => panic!("{other:?}"),
            });
            script.send(id, GuestBody::Credit(count));
            left -= count;
        }
        script.expect(|_, body| assert_eq!(body, HostBody::End));
        script.send(id, GuestBody::Exit(exit(0)));
        script.wait_closed();
    });
    let execution = guest.exec(command("cat"), soon()).unwrap();
    execution.write_stdin(&vec![1; 2 * WINDOW as usize], Some(soon())).unwrap();
    execution.close_stdin(soon()).unwrap();
    assert_eq!(execution.wait(Some(soon())).unwrap(), exit(0));
    let error = execution.write_stdin(b"more", Some(soon())).unwrap_err();
    assert_eq!(error.to_string(), "`cat` takes no input any more");
    drop((execution, guest));
    thread.join().unwrap();
}

#[test]
fn input_without_credit_times_out() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        script.start_command();
        script.wait_closed();
    });
    let execution = guest.exec(command("cat"), soon()).unwrap();
    let error = execution.write_stdin(&vec![1; WINDOW as usize + 1], Some(shortly())).unwrap_err();
    let text = "timed out after 0.1 s waiting for the guest to take input for `cat`";
    assert_eq!(error.to_string(), text);
}

#[test]
fn output_that_is_taken_gives_credit_back() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        let chunk = vec![0; CHUNK];
        (0..4).for_each(|_| script.send(id, stdout(&chunk)));
        for _ in 0..4 {
            let credit = HostBody::Credit(Stream::Stdout, CHUNK as u64);
            script.expect(|_, body| assert_eq!(body, credit));
            script.send(id, stdout(&chunk));
        }
        script.wait_closed();
    });
    let execution = guest.exec(command("yes"), soon()).unwrap();
    let take = || match execution.next(Some(soon())).unwrap() {
        Event::Output { data, .. } => data.len(),
        Event::Ended(exit) | Event::Exit(exit) => panic!("{exit:?}"),
    };
    assert_eq!((0..8).map(|_| take()).sum::<usize>(), 8 * CHUNK);
    drop((execution, guest));
    thread.join().unwrap();
}

#[test]
fn a_dropped_command_is_cancelled() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        script.expect(|cancelled, body| assert_eq!((cancelled, body), (id, HostBody::Cancel)));
    });
    drop(guest.exec(command("sleep"), soon()).unwrap());
    thread.join().unwrap();
}

#[test]
fn a_command_that_has_exited_is_not_cancelled() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        script.send(id, GuestBody::Exit(exit(0)));
        assert!(script.next(|_, body| panic!("{body:?}")).is_none());
    });
    let execution = guest.exec(command("true"), soon()).unwrap();
    execution.wait(Some(soon())).unwrap();
    drop((execution, guest));
    thread.join().unwrap();
}

#[test]
fn signals_and_sizes_reach_the_command() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        script.start_command();
        script.expect(|_, body| assert_eq!(body, HostBody::Signal(15)));
        let size = vsock_proto::PtySize { rows: 24, columns: 80 };
        script.expect(|_, body| assert_eq!(body, HostBody::Resize(size)));
        script.expect(|_, body| assert_eq!(body, HostBody::Cancel));
    });
    let execution = guest.exec(command("top"), soon()).unwrap();
    execution.signal(15, soon()).unwrap();
    execution.resize(vsock_proto::PtySize { rows: 24, columns: 80 }, soon()).unwrap();
    execution.cancel(soon()).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_tree_is_written() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.request();
        script.expect(|_, body| assert_eq!(body, HostBody::Entry(file("a"))));
        script.expect(|_, body| assert_eq!(body, HostBody::Data(b"abc")));
        script.expect(|_, body| assert_eq!(body, HostBody::End));
        script.send(id, GuestBody::Done);
    });
    let write = Write { target: ByteBuf::from("/work"), ..Write::default() };
    let mut tree = guest.write(write, soon()).unwrap();
    tree.entry(file("a"), soon()).unwrap();
    tree.data(b"abc", soon()).unwrap();
    tree.finish(soon()).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_full_disk_ends_writing_at_once() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.request();
        script.expect(|_, body| assert_eq!(body, HostBody::Entry(file("a"))));
        let message = "cannot write /work/a: no space left on device".into();
        script.send(id, GuestBody::Failed(Failure { errno: 28, message }));
        script.wait_closed();
    });
    let write = Write { target: ByteBuf::from("/work"), ..Write::default() };
    let mut tree = guest.write(write, soon()).unwrap();
    tree.entry(file("a"), soon()).unwrap();
    // More than the guest's credit, so only the failure can end the call.
    let error = tree.data(&vec![0; 2 * WINDOW as usize], soon()).unwrap_err();
    let Error::Refused { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(error.to_string(), "the guest could not take files for `/work`");
    assert_eq!(source.errno, 28);
}

#[test]
fn a_dropped_tree_is_cancelled() {
    let reactor = Reactor::start().unwrap();
    let (guest, taken) = deaf(&reactor);
    drop(guest.write(Write::default(), soon()).unwrap());
    drop(guest.read(Read::default(), soon()).unwrap());
    let taken: Vec<_> = taken.iter().take(4).collect();
    assert_eq!([&*taken[1], &*taken[3]], ["Cancel", "Cancel"]);
}

#[test]
fn an_entry_that_no_credit_could_pay_is_refused_here() {
    let reactor = Reactor::start().unwrap();
    let (guest, _taken) = deaf(&reactor);
    let mut tree = guest.write(Write::default(), soon()).unwrap();
    let error = tree.entry(file(&"x".repeat(WINDOW as usize)), soon()).unwrap_err();
    assert!(matches!(error, Error::EntryTooLong { .. }));
}

#[test]
fn a_tree_is_read() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.request();
        script.send(id, GuestBody::Entry(file("a")));
        script.send(id, stdout(b"abc"));
        script.send(id, GuestBody::Entry(file("b")));
        script.send(id, GuestBody::Done);
        script.wait_closed();
    });
    let mut tree = guest.read(Read::default(), soon()).unwrap();
    let mut next = || tree.next(soon()).unwrap();
    assert_eq!(next(), Some(TreeItem::Entry(file("a"))));
    assert_eq!(next(), Some(TreeItem::Data(b"abc".into())));
    assert_eq!(next(), Some(TreeItem::Entry(file("b"))));
    assert_eq!(next(), None);
}

#[test]
fn a_request_that_is_too_long_fails_alone() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let exec = script.request();
        script.expect(|id, body| assert_eq!((id, body), (exec, HostBody::Cancel)));
        let ping = script.request();
        script.send(ping, GuestBody::Done);
        script.wait_closed();
    });
    let error = guest.exec(command(&"x".repeat(2 << 20)), soon()).unwrap_err();
    assert!(matches!(error, Error::Encode { phase: Phase::Start { .. }, .. }));
    guest.ping(soon()).unwrap();
}

#[test]
fn each_timeout_names_its_phase() {
    let reactor = Reactor::start().unwrap();
    let (guest, _taken) = deaf(&reactor);
    let texts = [
        guest.ping(shortly()).unwrap_err().to_string(),
        guest.exec(command("ls"), shortly()).unwrap_err().to_string(),
        guest.set_state(GuestState::default(), shortly()).unwrap_err().to_string(),
        guest.quiesce(shortly()).unwrap_err().to_string(),
        guest.shutdown(shortly()).unwrap_err().to_string(),
    ];
    let wanted = ["answer a ping", "start `ls`", "set its state", "quiesce", "shut down"];
    let expected =
        wanted.map(|phase| format!("timed out after 0.1 s waiting for the guest to {phase}"));
    assert_eq!(texts, expected);
}

#[test]
fn what_is_sent_while_a_guest_is_held_reaches_it_after_that() {
    let reactor = Reactor::start().unwrap();
    let (sender, taken) = mpsc::channel();
    let (guest, _) = guest(&reactor, move |mut script| {
        let ping = script.request();
        script.send(ping, GuestBody::Done);
        while script.next(|_, body| sender.send(format!("{body:?}"))).is_some() {}
    });
    guest.hold(soon()).unwrap();
    guest.quiesce(shortly()).unwrap_err();
    assert!(taken.try_recv().is_err());

    guest.release();

    assert_eq!([taken.recv().unwrap(), taken.recv().unwrap()], ["Quiesce", "Cancel"]);
}

#[test]
fn a_guest_that_reads_nothing_makes_callers_wait_not_memory_grow() {
    let reactor = Reactor::start().unwrap();
    let (done, wait) = mpsc::channel::<()>();
    let (count, counted) = mpsc::channel();
    let (guest, thread) = guest(&reactor, move |mut script| {
        let _ = wait.recv();
        while script.next(|_, body| count.send(body.is_request())).is_some() {}
    });
    let big = command(&"x".repeat(CHUNK));
    let timeouts = (0..32).map(|_| guest.exec(big.clone(), shortly())).filter(Result::is_err);
    assert_eq!(timeouts.count(), 32);
    drop((guest, done));
    thread.join().unwrap();
    // Only what fits in the socket and under the outbox's high-water mark was sent.
    assert!(counted.iter().filter(|is_request| *is_request).count() < 16);
}

#[test]
fn a_dead_guest_ends_every_waiting_call_at_once() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        script.start_command();
        // The next request, the ping, ends the script.
        script.expect(|_, body| assert_eq!(body, HostBody::Ping));
    });
    let execution = guest.exec(command("sleep"), soon()).unwrap();
    let closed = guest.closed();
    thread::scope(|scope| {
        let output = scope.spawn(|| execution.next(None));
        let ping = scope.spawn(|| guest.ping(soon()));
        let text = "lost the guest, which was to send output of `sleep`";
        assert_eq!(output.join().unwrap().unwrap_err().to_string(), text);
        let text = "lost the guest, which was to answer a ping";
        assert_eq!(ping.join().unwrap().unwrap_err().to_string(), text);
    });
    assert!(closed.recv().is_err());
    assert!(guest.is_closed());
    assert!(matches!(guest.ping(soon()), Err(Error::Lost { .. })));
}

#[test]
fn closing_ends_the_calls_here_and_sends_what_is_unsent() {
    let reactor = Reactor::start().unwrap();
    let (guest, taken) = deaf(&reactor);
    let mut tree = guest.write(Write::default(), soon()).unwrap();
    tree.data(&vec![0; WINDOW as usize], soon()).unwrap();
    guest.close();
    let error = tree.finish(soon()).unwrap_err();
    let Error::Lost { source, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*source, Loss::ClosedHere));
    let data = taken.iter().filter(|message| message.starts_with("Data")).count();
    assert_eq!(data, 4);
}

#[test]
fn handles_dropped_after_closing_do_not_cut_off_the_unsent_bytes() {
    let reactor = Reactor::start().unwrap();
    let (guest, taken) = deaf(&reactor);
    let mut tree = guest.write(Write::default(), soon()).unwrap();
    tree.data(&vec![0; WINDOW as usize], soon()).unwrap();
    guest.close();
    drop((tree, guest));
    let data = taken.iter().filter(|message| message.starts_with("Data")).count();
    assert_eq!(data, 4);
}

#[test]
fn stop_ends_calls_under_way() {
    let reactor = Reactor::start().unwrap();
    let (guest, taken) = deaf(&reactor);
    thread::scope(|scope| {
        let ping = scope.spawn(|| guest.ping(soon()));
        taken.recv().unwrap();
        reactor.stop().unwrap();
        let Err(Error::Lost { source, .. }) = ping.join().unwrap() else {
            panic!("the ping goes on");
        };
        assert!(matches!(*source, Loss::Stopped));
    });
}

#[test]
fn closing_in_the_middle_of_a_frame_is_told_from_closing() {
    assert_eq!(loss_by(|_, _| ()), "it closed the connection");
    let half = loss_by(|script, _| script.raw(&[9, 0, 0, 0, 1]));
    assert_eq!(half, "it closed the connection in the middle of a message");
}

#[test]
fn a_frame_that_is_no_message_ends_the_connection() {
    let loss = loss_by(|script, _| script.raw(&[2, 0, 0, 0, 1, 0xff]));
    assert_eq!(loss, "frame of 2 bytes is not a message of this protocol");
}

#[test]
fn a_frame_over_the_limit_ends_the_connection() {
    let loss = loss_by(|script, _| script.raw(&[0, 0, 0x11, 0]));
    assert_eq!(loss, "frame of 1114112 bytes is over the limit of 1048576");
}

#[test]
fn output_without_credit_ends_the_connection() {
    let loss = loss_by(|script, id| script.send(id, stdout(&vec![0; WINDOW as usize + 1])));
    assert_eq!(loss, "262145 bytes were sent on a stream with 262144 bytes of credit");
}

#[test]
fn credit_that_was_never_used_ends_the_connection() {
    let loss = loss_by(|script, id| script.send(id, GuestBody::Credit(1)));
    assert_eq!(loss, "credit of 1 bytes on top of 262144 is over the window");
}

#[test]
fn an_answer_of_another_kind_ends_the_connection() {
    let loss = loss_by(|script, id| script.send(id, GuestBody::Done));
    assert_eq!(loss, "it broke the protocol: `Done` is not allowed while a command runs");
}

#[test]
fn answers_to_unknown_requests_are_ignored() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.request();
        script.send(RequestId(999), stdout(b"unrequested"));
        script.send(id, GuestBody::Done);
        script.send(id, GuestBody::Done);
        let id = script.request();
        script.send(id, GuestBody::Done);
        script.wait_closed();
    });
    guest.ping(soon()).unwrap();
    guest.ping(soon()).unwrap();
}

#[test]
fn words_before_the_end_are_heard_though_the_guest_has_closed() {
    let reactor = Reactor::start().unwrap();
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        (0..4).for_each(|_| script.send(id, stdout(&vec![0; CHUNK])));
    });
    let execution = guest.exec(command("yes"), soon()).unwrap();
    thread.join().unwrap();
    let next = || match execution.next(Some(soon())) {
        Ok(Event::Output { data, .. }) => data.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((0..4).map(|_| next()).sum::<usize>(), 4 * CHUNK);
    assert!(matches!(execution.next(Some(soon())), Err(Error::Lost { .. })));
}

#[test]
fn a_guest_that_floods_does_not_hold_up_another() {
    let reactor = Reactor::start().unwrap();
    let (flooder, _) = guest(&reactor, |mut script| {
        let chunk = vec![0; CHUNK];
        while script.try_send(RequestId(999), stdout(&chunk)).is_ok() {}
    });
    let (guest, _) = guest(&reactor, |mut script| {
        for _ in 0..100 {
            let id = script.request();
            script.send(id, GuestBody::Done);
        }
    });
    (0..100).try_for_each(|_| guest.ping(soon()).map(drop)).unwrap();
    assert!(!flooder.is_closed());
}
