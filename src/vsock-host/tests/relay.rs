//! Clients of a relay.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod script;

use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Instant;

use script::{BOOT, Script, command, exit, guest, ready, soon, stdout};
use vsock_host::{Error, Event, Guest, Loss, Reactor};
use vsock_proto::{
    CHUNK, Exec, GuestBody, Hello, HostBody, HostMessage, RequestId, Stream, WINDOW, encode,
};

/// Connects to `guest` through a relay, with the client's own reactor.
fn client(guest: &Guest, reactor: &Reactor) -> Guest {
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.relay(theirs).unwrap();
    reactor.adopt(ours, soon()).unwrap()
}

/// A scripted client, after the handshake.
struct Raw {
    stream: UnixStream,
}

impl Raw {
    fn new(guest: &Guest) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        guest.relay(theirs).unwrap();
        let raw = Self { stream };
        raw.send(0, HostBody::Welcome(None));
        raw
    }

    fn send(&self, id: u64, body: HostBody<'_>) {
        let mut bytes = Vec::new();
        encode(&HostMessage { id: RequestId(id), body }, &mut bytes).unwrap();
        std::io::Write::write_all(&mut &self.stream, &bytes).unwrap();
    }

    /// Waits until the relay closes the connection.
    fn wait_closed(mut self) {
        let timeout = soon().saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        std::io::copy(&mut self.stream, &mut std::io::sink()).unwrap();
    }
}

/// A guest that reports the messages it receives, and its host.
fn listening(reactor: &Reactor) -> (Guest, mpsc::Receiver<(RequestId, String)>) {
    let (sender, heard) = mpsc::channel();
    let (guest, _) = guest(reactor, move |mut script| {
        while script.next(|id, body| sender.send((id, format!("{body:?}")))).is_some() {}
    });
    (guest, heard)
}

#[test]
fn a_client_is_greeted_in_the_guests_name() {
    let (reactor, theirs) = (Reactor::start().unwrap(), Reactor::start().unwrap());
    let (guest, _heard) = listening(&reactor);
    let client = client(&guest, &theirs);
    assert_eq!(client.boot_id(), BOOT);
    assert_eq!(client.ready(), &ready());
    assert_eq!(client.previous_failure(), None);
}

#[test]
fn two_clients_and_the_host_get_their_own_answers() {
    let (reactor, theirs) = (Reactor::start().unwrap(), Reactor::start().unwrap());
    let (guest, _) = guest(&reactor, |mut script| {
        let mut programs = Vec::new();
        for _ in 0..3 {
            let started = script.expect(|id, body| match body {
                HostBody::Exec(exec) => (id, exec.argv[0].to_vec()),
                other => panic!("{other:?}"),
            });
            script.send(started.0, GuestBody::Started(1));
            programs.push(started);
        }
        for (id, program) in programs {
            script.send(id, stdout(&program));
            script.send(id, GuestBody::Exit(exit(0)));
        }
        script.wait_closed();
    });
    let (first, second) = (client(&guest, &theirs), client(&guest, &theirs));
    let start = |guest: &Guest, name| guest.exec(command(name), soon()).unwrap();
    let executions = [start(&first, "one"), start(&second, "two"), start(&guest, "three")];
    let outputs = executions.map(|execution| execution.output(99, Some(soon())).unwrap().stdout);
    assert_eq!(outputs, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn credit_goes_from_end_to_end() {
    let (reactor, theirs) = (Reactor::start().unwrap(), Reactor::start().unwrap());
    let (guest, thread) = guest(&reactor, |mut script| {
        let id = script.start_command();
        let chunk = vec![0; CHUNK];
        (0..4).for_each(|_| script.send(id, stdout(&chunk)));
        for _ in 0..12 {
            let credit = HostBody::Credit(Stream::Stdout, CHUNK as u64);
            script.expect(|_, body| assert_eq!(body, credit));
            script.send(id, stdout(&chunk));
        }
        script.send(id, GuestBody::Exit(exit(0)));
        script.wait_closed();
    });
    let client = client(&guest, &theirs);
    let execution = client.exec(command("yes"), soon()).unwrap();
    let output = execution.output(16 * CHUNK, Some(soon())).unwrap();
    assert_eq!(output.stdout.len(), 16 * CHUNK);
    drop((execution, client, guest));
    thread.join().unwrap();
}

#[test]
fn a_client_that_vanishes_has_its_requests_cancelled() {
    let reactor = Reactor::start().unwrap();
    let (guest, heard) = listening(&reactor);
    let raw = Raw::new(&guest);
    raw.send(5, HostBody::Exec(Exec::default()));
    raw.send(6, HostBody::Ping);
    let started = [heard.recv().unwrap().0, heard.recv().unwrap().0];
    drop(raw);
    let ended = [heard.recv().unwrap(), heard.recv().unwrap()];
    assert_eq!(ended, started.map(|id| (id, "Cancel".into())));
}

#[test]
fn a_client_learns_the_last_answer_and_then_that_the_guest_is_gone() {
    let (reactor, theirs) = (Reactor::start().unwrap(), Reactor::start().unwrap());
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.request();
        script.send(id, GuestBody::Done);
    });
    let client = client(&guest, &theirs);
    client.shutdown(soon()).unwrap();
    assert!(client.closed().recv_deadline(soon()).unwrap_err().is_disconnected());
}

#[test]
fn a_client_that_does_not_read_delays_no_other_call() {
    let (reactor, theirs) = (Reactor::start().unwrap(), Reactor::start().unwrap());
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.start_command();
        // All of the credit; the client does not read.
        (0..WINDOW / 64).for_each(|_| script.send(id, stdout(&[0; 64])));
        for _ in 0..2 {
            let id = script.request();
            script.send(id, GuestBody::Done);
        }
        script.wait_closed();
    });
    let raw = Raw::new(&guest);
    raw.send(1, HostBody::Exec(Exec::default()));
    // Calls of the host and of another client still work.
    let other = client(&guest, &theirs);
    guest.ping(soon()).unwrap();
    other.ping(soon()).unwrap();
    assert!(!guest.is_closed());
}

#[test]
fn a_client_that_reads_nothing_is_not_read() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        while let Some(id) = script.next(|id, _| id) {
            script.send(id, GuestBody::Done);
        }
    });
    let raw = Raw::new(&guest);
    raw.stream.set_nonblocking(true).unwrap();
    let mut pings = Vec::new();
    for id in (1..1 << 20).map(RequestId) {
        encode(&HostMessage { id, body: HostBody::Ping }, &mut pings).unwrap();
    }
    // The answers fill the socket to the client, then the relay's buffer, then it stops reading.
    let mut sent = 0;
    let mut poll = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&raw.stream),
        nix::poll::PollFlags::POLLOUT,
    )];
    while nix::poll::poll(&mut poll, 200u16).unwrap() > 0 && sent < pings.len() {
        sent += std::io::Write::write(&mut &raw.stream, &pings[sent..]).unwrap();
    }
    assert!(sent < pings.len());
    assert!(!guest.is_closed());
}

#[test]
fn a_guest_that_overruns_a_clients_credit_is_lost() {
    let reactor = Reactor::start().unwrap();
    let (guest, _) = guest(&reactor, |mut script| {
        let id = script.start_command();
        script.send(id, stdout(&vec![0; WINDOW as usize + 1]));
        script.wait_closed();
    });
    let raw = Raw::new(&guest);
    raw.send(1, HostBody::Exec(Exec::default()));
    assert!(guest.closed().recv_deadline(soon()).unwrap_err().is_disconnected());
    let Err(Error::Lost { source, .. }) = guest.ping(soon()) else {
        panic!("the guest lives");
    };
    assert!(matches!(*source, Loss::Protocol { .. }));
    raw.wait_closed();
}

#[test]
fn a_client_that_overruns_its_credit_is_closed_alone() {
    let reactor = Reactor::start().unwrap();
    let (guest, heard) = listening(&reactor);
    let raw = Raw::new(&guest);
    raw.send(1, HostBody::Exec(command("cat")));
    raw.send(1, HostBody::Data(&vec![0; WINDOW as usize + 1]));
    raw.wait_closed();
    assert!(heard.recv().unwrap().1.starts_with("Exec"));
    assert_eq!(heard.recv().unwrap().1, "Cancel");
    assert!(!guest.is_closed());
}

#[test]
fn a_client_that_grants_what_it_did_not_take_is_closed_alone() {
    let reactor = Reactor::start().unwrap();
    let (guest, _heard) = listening(&reactor);
    let raw = Raw::new(&guest);
    raw.send(1, HostBody::Exec(Exec::default()));
    raw.send(1, HostBody::Credit(Stream::Stdout, 1));
    raw.wait_closed();
    assert!(!guest.is_closed());
}

#[test]
fn a_client_that_uses_a_number_twice_is_closed_alone() {
    let reactor = Reactor::start().unwrap();
    let (guest, _heard) = listening(&reactor);
    let raw = Raw::new(&guest);
    raw.send(1, HostBody::Exec(Exec::default()));
    raw.send(1, HostBody::Ping);
    raw.wait_closed();
    assert!(!guest.is_closed());
}

#[test]
fn a_client_that_sends_garbage_is_closed_alone() {
    let reactor = Reactor::start().unwrap();
    let (guest, _heard) = listening(&reactor);
    let raw = Raw::new(&guest);
    std::io::Write::write_all(&mut &raw.stream, &[0xff; 64]).unwrap();
    raw.wait_closed();
    assert!(!guest.is_closed());
}

#[test]
fn one_request_too_many_is_refused_and_the_others_go_on() {
    let (reactor, theirs) = (Reactor::start().unwrap(), Reactor::start().unwrap());
    let (guest, _) = guest(&reactor, |mut script| {
        while script
            .next(|id, body| (id, body.is_request()))
            .is_some_and(|(id, is_request)| is_request && script_started(&mut script, id))
        {}
        script.wait_closed();
    });
    let client = client(&guest, &theirs);
    let start = || client.exec(command("sleep"), soon()).unwrap();
    let executions: Vec<_> = (0..17).map(|_| start()).collect();
    let started = executions.iter().filter(|execution| execution.pid().is_some()).count();
    assert_eq!(started, 16);
    let Event::Exit(exit) = executions[16].next(Some(soon())).unwrap() else {
        panic!("the last one runs");
    };
    assert_eq!(exit.outcome.exit_code(), 126);
}

fn script_started(script: &mut Script, id: RequestId) -> bool {
    script.send(id, GuestBody::Started(1));
    true
}

#[test]
fn a_client_of_a_guest_that_is_gone_is_turned_away() {
    let reactor = Reactor::start().unwrap();
    let (guest, _heard) = listening(&reactor);
    guest.close();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert!(matches!(guest.relay(theirs), Err(Error::Lost { .. })));
}

#[test]
fn the_hello_of_the_relay_is_one_of_this_version() {
    let reactor = Reactor::start().unwrap();
    let (guest, _heard) = listening(&reactor);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.relay(theirs).unwrap();
    let mut bytes = [0; 256];
    let count = std::io::Read::read(&mut ours, &mut bytes).unwrap();
    let mut decoder = vsock_proto::Decoder::new();
    decoder.push(&bytes[..count]);
    let hello = Hello::decode(&mut decoder).unwrap().unwrap();
    assert_eq!(hello.boot_id, BOOT);
}
