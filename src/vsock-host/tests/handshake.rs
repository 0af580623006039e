//! Handshakes, and a newer connection that replaces the live one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod script;

use std::error::Error as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use script::{BOOT, Script, guest, shortly, soon};
use tempfile::TempDir;
use vsock_host::{Error, Listener, Loss, Phase, Reactor};
use vsock_proto::{GuestBody, HostBody, LinkSecret, Ready, RequestId, VERSION};

struct Stage {
    reactor: Reactor,
    listener: Listener,
    path: PathBuf,
    _folder: TempDir,
}

fn stage() -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock_1000");
    let reactor = Reactor::start().unwrap();
    let listener = reactor.listen(&path, "1a2b3c4d").unwrap();
    Stage { reactor, listener, path, _folder: folder }
}

#[test]
fn a_guest_that_greets_is_accepted_with_what_it_says_of_itself() {
    let stage = stage();
    let _script = Script::dial(&stage.path).greet_in_background();
    let guest = stage.listener.accept(soon()).unwrap();
    assert_eq!(guest.boot_id(), BOOT);
    assert_eq!(guest.ready().kernel, "6.1.0-script");
    assert_eq!(guest.previous_failure(), Some("it had a bad day"));
}

#[test]
fn another_version_is_rejected_and_accept_says_so() {
    let stage = stage();
    let mut script = Script::dial(&stage.path);
    script.hello(VERSION + 1);
    let error = stage.listener.accept(soon()).unwrap_err();
    assert_eq!(error.to_string(), "refused a guest's hello");
    let expected = format!(
        "the guest speaks protocol version {}, this host version {VERSION}: rebuild the image",
        VERSION + 1
    );
    assert_eq!(error.source().unwrap().to_string(), expected);
    script.expect(|_, body| assert_eq!(body, HostBody::Reject(expected)));
    script.wait_closed();
}

#[test]
fn garbage_is_dropped_and_the_next_guest_accepted() {
    let stage = stage();
    let mut garbage = Script::dial(&stage.path);
    garbage.raw(b"\x10\0\0\0GET / HTTP/1.1\r\n");
    garbage.wait_closed();
    let _script = Script::dial(&stage.path).greet_in_background();
    assert!(stage.listener.accept(soon()).is_ok());
}

#[test]
fn an_oversize_hello_is_dropped() {
    let stage = stage();
    let mut script = Script::dial(&stage.path);
    script.raw(&[0xff; 8]);
    script.wait_closed();
}

#[test]
fn a_newer_connection_ends_the_older() {
    let stage = stage();
    let mut older_end = Script::dial(&stage.path).greet_in_background().join().unwrap();
    let older = stage.listener.accept(soon()).unwrap();
    let _script = Script::dial_again(&stage.path, &older_end).greet_in_background();
    let newer = stage.listener.accept(soon()).unwrap();
    let Err(Error::Lost { phase: Phase::Ping, source }) = older.ping(soon()) else {
        panic!("the older connection lives");
    };
    assert!(matches!(*source, Loss::Replaced));
    assert!(!newer.is_closed());
    older_end.wait_closed();
}

#[test]
fn a_process_without_the_secret_does_not_displace_the_service() {
    let stage = stage();
    let service = Script::dial(&stage.path).greet_in_background().join().unwrap();
    let guest = stage.listener.accept(soon()).unwrap();
    let mut impostor = Script::dial(&stage.path);
    impostor.hello(VERSION);
    impostor.wait_closed();
    let mut guesser = Script::dial(&stage.path);
    guesser.secret = Some(LinkSecret([0; 32]));
    guesser.hello(VERSION);
    guesser.wait_closed();
    assert!(!guest.is_closed());
    drop(service);
}

#[test]
fn a_wrong_version_after_the_first_guest_is_not_an_error_of_accept() {
    let stage = stage();
    let service = Script::dial(&stage.path).greet_in_background().join().unwrap();
    drop(stage.listener.accept(soon()).unwrap());
    let mut impostor = Script::dial(&stage.path);
    impostor.hello(VERSION + 1);
    impostor.expect(|_, body| assert!(matches!(body, HostBody::Reject(_))));
    let _again = Script::dial_again(&stage.path, &service).greet_in_background();
    assert!(stage.listener.accept(soon()).is_ok());
}

#[test]
fn of_two_that_greet_at_once_the_second_to_be_ready_needs_the_secret() {
    let stage = stage();
    let mut slow = Script::dial(&stage.path);
    slow.hello(VERSION);
    slow.expect(|_, body| assert!(matches!(body, HostBody::Welcome(Some(_)))));
    let _service = Script::dial(&stage.path).greet_in_background();
    let guest = stage.listener.accept(soon()).unwrap();
    slow.send(RequestId::LINK, GuestBody::Ready(Ready::default()));
    slow.wait_closed();
    assert!(!guest.is_closed());
}

#[test]
fn a_guest_that_is_gone_before_it_is_accepted_is_not_returned() {
    let stage = stage();
    let first = Script::dial(&stage.path).greet_in_background().join().unwrap();
    let second = Script::dial_again(&stage.path, &first);
    drop(first);
    // After a handshake of another guest, the reactor has seen the end of the first connection.
    let (_other, _) = guest(&stage.reactor, |mut script| script.wait_closed());
    let second = second.greet_in_background();
    let guest = stage.listener.accept(soon()).unwrap();
    let mut script = second.join().unwrap();
    drop(guest);
    script.wait_closed();
}

#[test]
fn accept_times_out_with_the_step_that_is_missing() {
    let stage = stage();
    let error = stage.listener.accept(shortly()).unwrap_err();
    let text = "timed out after 0.1 s waiting for the guest to connect";
    assert_eq!(error.to_string(), text);
}

#[test]
fn adopt_times_out_with_the_phase_that_is_missing() {
    let reactor = Reactor::start().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = reactor.adopt(ours, shortly()).unwrap_err();
    assert!(matches!(error, Error::TimedOut { phase: Phase::Hello, .. }));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut script = Script::new(theirs);
    script.hello(VERSION);
    let error = reactor.adopt(ours, shortly()).unwrap_err();
    assert!(matches!(error, Error::TimedOut { phase: Phase::Ready, .. }));
}

#[test]
fn a_peer_that_closes_in_the_middle_of_its_hello_is_lost() {
    let reactor = Reactor::start().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut script = Script::new(theirs);
    script.raw(&[20, 0, 0, 0, 1, 2, 3]);
    script.half_close();
    let Err(Error::Lost { phase: Phase::Hello, source }) = reactor.adopt(ours, soon()) else {
        panic!("half a hello was enough");
    };
    assert!(matches!(*source, Loss::MidFrame));
}

#[test]
fn an_answer_instead_of_ready_is_a_breach() {
    let reactor = Reactor::start().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut script = Script::new(theirs);
    script.hello(VERSION);
    script.send(RequestId(1), GuestBody::Done);
    let Err(Error::Lost { phase: Phase::Ready, source }) = reactor.adopt(ours, soon()) else {
        panic!("an answer was taken for a greeting");
    };
    assert!(matches!(*source, Loss::Unexpected { .. }));
}

#[test]
fn of_too_many_that_say_nothing_the_oldest_is_dropped() {
    let stage = stage();
    let mut oldest = Script::dial(&stage.path);
    let _silent: Vec<_> = (0..16).map(|_| Script::dial(&stage.path)).collect();
    oldest.wait_closed();
}

#[test]
fn those_that_say_nothing_do_not_keep_the_service_out() {
    let stage = stage();
    let _silent: Vec<_> = (0..40).map(|_| Script::dial(&stage.path)).collect();
    let _script = Script::dial(&stage.path).greet_in_background();
    assert!(stage.listener.accept(soon()).is_ok());
}

#[test]
fn connecting_to_a_path_without_listener_is_an_error_that_names_it() {
    let stage = stage();
    let error = stage.reactor.connect("/nowhere/control.sock".as_ref(), soon()).unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to /nowhere/control.sock");
}

#[test]
fn a_full_queue_makes_connecting_time_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).unwrap();
    let backlog = nix::sys::socket::Backlog::new(0).unwrap();
    nix::sys::socket::listen(&socket, backlog).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let reactor = Reactor::start().unwrap();
    let error = reactor.connect(&path, shortly()).unwrap_err();
    assert!(matches!(error, Error::TimedOut { phase: Phase::Dial, .. }));
}

#[test]
fn a_closed_listener_ends_accept_and_unlinks_its_socket() {
    let stage = stage();
    std::thread::scope(|scope| {
        let accept = scope.spawn(|| stage.listener.accept(soon()));
        stage.listener.close();
        assert!(matches!(accept.join().unwrap(), Err(Error::ListenerClosed)));
    });
    assert!(!stage.path.exists());
}

#[test]
fn a_listener_leaves_alone_what_took_its_name() {
    let Stage { reactor, listener, path, _folder } = stage();
    std::fs::remove_file(&path).unwrap();
    let _other = reactor.listen(&path, "1a2b3c4d").unwrap();
    drop(listener);
    assert!(path.exists());
}

#[test]
fn a_deadline_in_the_past_is_a_timeout() {
    let reactor = Reactor::start().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = reactor.adopt(ours, Instant::now()).unwrap_err();
    assert!(matches!(error, Error::TimedOut { phase: Phase::Hello, .. }));
}
