//! Faults on either end and between them, and recovery.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::tempdir;
use vsock_guest::{End, Service, serve};
use vsock_host::{Error, Event, Guest, Loss, Reactor};
use vsock_proto::{GuestState, MAX_FRAME};
use vsock_test::{Lifeline, Pair, code, config, run, serve_on, shell, soon};

/// The header of a frame that is longer than any may be.
const OVERSIZE: [u8; 4] = (MAX_FRAME as u32 + 1).to_le_bytes();

/// A frame that is no message.
const GARBAGE: [u8; 7] = [3, 0, 0, 0, 0xff, 0xff, 0xff];

/// A frame of 100 bytes without the last 98.
const HALF: [u8; 6] = [100, 0, 0, 0, 1, 2];

/// The reason that a command's execution ends without an exit.
fn loss(execution: &vsock_host::Execution) -> Arc<Loss> {
    match execution.wait(Some(soon())) {
        Err(Error::Lost { source, .. }) => source,
        other => panic!("not lost: {other:?}"),
    }
}

#[test]
fn a_guest_that_closes_in_the_middle_of_a_message_ends_every_call() {
    let (pair, mut tap) = Pair::tapped();
    let first = pair.guest.exec(shell("sleep 1000"), soon()).unwrap();
    let second = pair.guest.exec(shell("sleep 1000"), soon()).unwrap();
    tap.to_host.write_all(&HALF).unwrap();
    tap.to_host.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(*loss(&first), Loss::MidFrame));
    assert!(matches!(*loss(&second), Loss::MidFrame));
    assert!(matches!(pair.guest.ping(soon()), Err(Error::Lost { .. })));
    assert!(pair.guest.closed().recv_deadline(soon()).unwrap_err().is_disconnected());
}

#[test]
fn garbage_from_a_guest_ends_its_connection() {
    let (pair, mut tap) = Pair::tapped();
    let execution = pair.guest.exec(shell("sleep 1000"), soon()).unwrap();
    tap.to_host.write_all(&GARBAGE).unwrap();
    assert!(matches!(*loss(&execution), Loss::Protocol { .. }));
}

#[test]
fn an_oversize_frame_from_a_guest_ends_its_connection_before_it_comes() {
    let (pair, mut tap) = Pair::tapped();
    let execution = pair.guest.exec(shell("sleep 1000"), soon()).unwrap();
    tap.to_host.write_all(&OVERSIZE).unwrap();
    let Loss::Protocol { source } = &*loss(&execution) else {
        panic!("not the protocol");
    };
    assert!(matches!(source, vsock_proto::Error::FrameTooLong { .. }));
}

#[test]
fn a_guest_that_breaks_the_protocol_does_not_touch_another() {
    let reactor = Reactor::start().unwrap();
    let good = Pair::on(&reactor);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&GARBAGE).unwrap();
    assert!(matches!(reactor.adopt(ours, soon()), Err(Error::Hello { .. })));
    assert_eq!(run(&good.guest, shell("exit 3")).exit.outcome, code(3));
}

#[test]
fn a_host_that_closes_in_the_middle_of_a_message_ends_its_commands() {
    let (pair, mut tap) = Pair::tapped();
    let lifeline = Lifeline::new();
    let script = format!("exec 3>{}; echo; sleep 1000", lifeline.path().display());
    let execution = pair.guest.exec(shell(&script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    tap.to_guest.write_all(&HALF).unwrap();
    tap.to_guest.shutdown(Shutdown::Write).unwrap();
    assert!(lifeline.is_cut_soon());
    assert_eq!(pair.end().unwrap(), End::Disconnected { was_welcome: true });
}

#[test]
fn garbage_from_a_host_ends_its_connection() {
    let (pair, mut tap) = Pair::tapped();
    tap.to_guest.write_all(&GARBAGE).unwrap();
    assert!(matches!(pair.end(), Err(vsock_guest::Error::Protocol { .. })));
}

#[test]
fn an_oversize_frame_from_a_host_ends_its_connection_before_it_comes() {
    let (pair, mut tap) = Pair::tapped();
    tap.to_guest.write_all(&OVERSIZE).unwrap();
    assert!(matches!(pair.end(), Err(vsock_guest::Error::Protocol { .. })));
}

/// Forwards one frame after `change` has modified it.
fn pass(mut from: &UnixStream, mut to: &UnixStream, change: impl FnOnce(&mut [u8])) {
    let mut header = [0; 4];
    from.read_exact(&mut header).unwrap();
    let mut frame = vec![0; u32::from_le_bytes(header) as usize];
    from.read_exact(&mut frame).unwrap();
    change(&mut frame);
    to.write_all(&[&header, &frame[..]].concat()).unwrap();
}

#[test]
fn both_ends_report_a_version_mismatch() {
    let reactor = Reactor::start().unwrap();
    let (ours, host_wire) = UnixStream::pair().unwrap();
    let (theirs, guest_wire) = UnixStream::pair().unwrap();
    let serving = serve_on(theirs, config(), || {});
    // The version follows the magic number of 8 bytes.
    pass(&guest_wire, &host_wire, |hello| hello[8] = 77);
    let error = reactor.adopt(ours, soon()).unwrap_err();
    pass(&host_wire, &guest_wire, |_| {});
    let Error::Hello { source } = error else {
        panic!("not the hello");
    };
    assert!(matches!(source, vsock_proto::Error::Version { theirs: 77, .. }));
    assert_eq!(serving.join().unwrap().unwrap(), End::Rejected(source.to_string()));
}

/// A guest as in a VM: it reconnects when its connection ends, until the listener is gone.
fn dial_again_and_again(path: PathBuf) -> JoinHandle<()> {
    let dial = move || {
        let mut service = Service::new(config());
        while let Ok(connection) = UnixStream::connect(&path) {
            serve(connection.into(), &mut service).unwrap();
        }
    };
    thread::Builder::new().name("guest".into()).spawn(dial).unwrap()
}

#[test]
fn a_guest_that_dials_again_is_a_new_one_and_the_old_ones_calls_end() {
    let (reactor, folder) = (Reactor::start().unwrap(), tempdir().unwrap());
    let path = folder.path().join("link");
    let listener = reactor.listen(&path, "1a2b3c4d").unwrap();
    let dialling = dial_again_and_again(path);
    let old = listener.accept(soon()).unwrap();
    let execution = old.exec(shell("sleep 1000"), soon()).unwrap();
    old.close();
    assert!(matches!(*loss(&execution), Loss::ClosedHere));
    let new = listener.accept(soon()).unwrap();
    assert_eq!(new.boot_id(), old.boot_id());
    assert_eq!(run(&new, shell("exit 3")).exit.outcome, code(3));
    drop((listener, new));
    dialling.join().unwrap();
}

/// As after a restore: the guest has reconnected, and the old connection is silent.
#[test]
fn a_newer_connection_takes_the_place_of_one_that_still_seems_to_live() {
    let (reactor, folder) = (Reactor::start().unwrap(), tempdir().unwrap());
    let path = folder.path().join("link");
    let listener = reactor.listen(&path, "1a2b3c4d").unwrap();
    let secret = Some(Arc::new(tempfile::tempfile().unwrap()));
    let config = || vsock_guest::Config { secret: secret.clone(), ..config() };
    let dial = || serve_on(UnixStream::connect(&path).unwrap(), config(), || {});
    let first = dial();
    let old = listener.accept(soon()).unwrap();
    let execution = old.exec(shell("sleep 1000"), soon()).unwrap();
    let second = dial();
    assert!(matches!(*loss(&execution), Loss::Replaced));
    let new = listener.accept(soon()).unwrap();
    new.ping(soon()).unwrap();
    assert_eq!(first.join().unwrap().unwrap(), End::Disconnected { was_welcome: true });
    drop(new);
    second.join().unwrap().unwrap();
}

#[test]
fn after_a_quiesce_the_guest_is_silent_until_the_next_request() {
    let (pair, lifeline, folder) = (Pair::new(), Lifeline::new(), tempdir().unwrap());
    let mark = folder.path().join("mark");
    let script = format!(
        "exec 3>{}; while [ ! -e {} ]; do sleep 0.01; done; echo late",
        lifeline.path().display(),
        mark.display()
    );
    let execution = pair.guest.exec(shell(&script), soon()).unwrap();
    pair.guest.quiesce(soon()).unwrap();
    fs::write(&mark, "").unwrap();
    assert!(lifeline.is_cut_soon());
    let a_moment = Instant::now() + Duration::from_millis(100);
    assert!(matches!(execution.next(Some(a_moment)), Err(Error::TimedOut { .. })));
    pair.guest.ping(soon()).unwrap();
    assert_eq!(execution.output(100, Some(soon())).unwrap().stdout, b"late\n");
}

#[test]
fn the_state_of_a_guest_is_set_in_its_files() {
    let root = tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let pair = Pair::with(vsock_guest::Config { root: root.path().into(), ..config() });
    let state = GuestState { hostname: Some("job-7".into()), ..GuestState::default() };
    pair.guest.set_state(state, soon()).unwrap();
    assert_eq!(fs::read(root.path().join("etc/hostname")).unwrap(), b"job-7\n");
}

#[test]
fn a_shutdown_is_confirmed_and_ends_commands_and_connection() {
    let pair = Pair::new();
    let guest: Guest = pair.guest.clone();
    let lifeline = Lifeline::new();
    let script = format!("exec 3>{}; echo; sleep 1000", lifeline.path().display());
    let execution = guest.exec(shell(&script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    guest.shutdown(soon()).unwrap();
    assert_eq!(pair.end().unwrap(), End::Shutdown);
    assert!(lifeline.is_cut_soon());
    assert!(matches!(guest.ping(soon()), Err(Error::Lost { .. })));
}

#[test]
fn a_reactor_that_stops_ends_every_call_and_every_guest() {
    let reactor = Reactor::start().unwrap();
    let pair = Pair::on(&reactor);
    let execution = pair.guest.exec(shell("sleep 1000"), soon()).unwrap();
    reactor.stop().unwrap();
    assert!(matches!(*loss(&execution), Loss::Stopped));
    assert_eq!(pair.end().unwrap(), End::Disconnected { was_welcome: true });
}

#[test]
fn dropping_a_listener_removes_its_socket() {
    let (reactor, folder) = (Reactor::start().unwrap(), tempdir().unwrap());
    let path = folder.path().join("link");
    let listener = reactor.listen(&path, "1a2b3c4d").unwrap();
    let error = listener.accept(Instant::now()).unwrap_err();
    assert_eq!(error.to_string(), "timed out after 0.0 s waiting for the guest to connect");
    drop(listener);
    assert!(!Path::new(&path).exists());
}
