//! Clients of a guest that reach it through the process that owns the connection.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;

use tempfile::tempdir;
use vsock_host::{Error, Event, Guest, Loss, Reactor, TreeItem};
use vsock_proto::{Exec, PtySize};
use vsock_test::{
    Lifeline, Pair, argv, code, file, on_terminal, read_from, run, shell, soon, write_to,
};

/// Another process's view of the guest: a reactor of its own, and a handle.
fn client_of(pair: &Pair) -> (Reactor, Guest) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    pair.guest.relay(theirs).unwrap();
    let reactor = Reactor::start().unwrap();
    let guest = reactor.adopt(ours, soon()).unwrap();
    (reactor, guest)
}

#[test]
fn a_client_receives_the_hello_of_the_guest() {
    let pair = Pair::new();
    let (_reactor, client) = client_of(&pair);
    assert_eq!(client.boot_id(), pair.guest.boot_id());
    assert_eq!(client.ready().kernel, pair.guest.ready().kernel);
    client.ping(soon()).unwrap();
}

#[test]
fn a_client_runs_a_command_with_input() {
    let pair = Pair::new();
    let (_reactor, client) = client_of(&pair);
    let exec = Exec { stdin: true, ..shell("cat; echo err >&2; exit 7") };
    let execution = client.exec(exec, soon()).unwrap();
    execution.write_stdin(b"through", Some(soon())).unwrap();
    execution.close_stdin(soon()).unwrap();
    let output = execution.output(100, Some(soon())).unwrap();
    assert_eq!(output.stdout, b"through");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.exit.outcome, code(7));
}

#[test]
fn a_client_has_a_terminal() {
    let pair = Pair::new();
    let (_reactor, client) = client_of(&pair);
    let script = "stty -echo; echo ready; read line; stty size";
    let execution = client.exec(on_terminal(script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    execution.resize(PtySize { rows: 5, columns: 6 }, soon()).unwrap();
    execution.write_stdin(b"\n", Some(soon())).unwrap();
    assert_eq!(execution.output(100, Some(soon())).unwrap().stdout, b"5 6\r\n");
}

#[test]
fn a_client_copies_a_file_in_and_out() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let (_reactor, client) = client_of(&pair);
    let path = folder.path().join("file");
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut tree = client.write(write_to(&path), soon()).unwrap();
    tree.entry(file(""), soon()).unwrap();
    tree.data(&bytes, soon()).unwrap();
    tree.finish(soon()).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    let mut tree = client.read(read_from(&path), soon()).unwrap();
    let mut back = Vec::new();
    while let Some(item) = tree.next(soon()).unwrap() {
        if let TreeItem::Data(data) = item {
            back.extend(data);
        }
    }
    assert!(back == bytes);
}

#[test]
fn a_client_connects_to_a_port_and_is_told_if_nothing_listens() {
    let pair = Pair::new();
    let (_reactor, client) = client_of(&pair);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stream = client.connect(port, soon()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    stream.write_all(b"there").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    peer.write_all(b"and back").unwrap();
    drop((listener, peer));
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "thereand back");
    let Err(Error::Refused { source, .. }) = client.connect(port, soon()) else {
        panic!("nothing listens on port {port}");
    };
    assert_eq!(source.message, format!("cannot reach port {port}: connection refused"));
}

#[test]
fn clients_and_the_owner_do_not_see_each_others_requests() {
    let pair = Pair::new();
    let clients = [client_of(&pair), client_of(&pair)];
    let guests = [&pair.guest, &clients[0].1, &clients[1].1];
    let echo = || Exec { stdin: true, ..argv(&["cat"]) };
    let all = guests.map(|guest| guest.exec(echo(), soon()).unwrap());
    for (execution, text) in all.iter().zip(["owner", "first", "second"]) {
        execution.write_stdin(text.as_bytes(), Some(soon())).unwrap();
        execution.close_stdin(soon()).unwrap();
    }
    let outputs = all.map(|execution| execution.output(100, Some(soon())).unwrap().stdout);
    assert_eq!(outputs, [&b"owner"[..], b"first", b"second"]);
}

#[test]
fn a_client_that_reads_nothing_does_not_block_others() {
    let pair = Pair::new();
    let (_reactor, client) = client_of(&pair);
    let _noisy = client.exec(argv(&["yes"]), soon()).unwrap();
    assert_eq!(run(&pair.guest, shell("exit 5")).exit.outcome, code(5));
    client.ping(soon()).unwrap();
}

#[test]
fn a_vanished_client_ends_its_command() {
    let (pair, lifeline) = (Pair::new(), Lifeline::new());
    let (reactor, client) = client_of(&pair);
    let script = format!("exec 3>{}; echo; sleep 1000", lifeline.path().display());
    let execution = client.exec(shell(&script), soon()).unwrap();
    assert!(matches!(execution.next(Some(soon())), Ok(Event::Output { .. })));
    reactor.stop().unwrap();
    assert!(lifeline.is_cut_soon());
    pair.guest.ping(soon()).unwrap();
}

#[test]
fn a_client_is_notified_when_the_guest_disconnects() {
    let pair = Pair::new();
    let (_reactor, client) = client_of(&pair);
    let execution = client.exec(shell("sleep 1000"), soon()).unwrap();
    pair.guest.close();
    let error = execution.wait(Some(soon())).unwrap_err();
    assert!(matches!(error, Error::Lost { source, .. } if matches!(*source, Loss::Closed)));
}
