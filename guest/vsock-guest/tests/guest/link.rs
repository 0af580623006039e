//! Handshakes, and the end of a connection.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Answer, Host, config, shell};
use vsock_guest::{Config, End, Error};
use vsock_proto::{HostBody, LinkSecret, RequestId, VERSION};

#[test]
fn a_guest_says_who_it_is_and_why_the_service_before_ended() {
    let (host, hello) =
        Host::dialled(Config { previous_failure: Some("killed by signal 11".into()), ..config() });
    assert_eq!(hello.version, VERSION);
    assert_eq!(hello.boot_id, config().boot_id);
    assert_eq!(hello.previous_failure.as_deref(), Some("killed by signal 11"));
    let was_welcome = false;
    assert_eq!(host.close().unwrap(), End::Disconnected { was_welcome });
}

#[test]
fn a_service_that_starts_anew_shows_the_secret_of_the_one_before() {
    let secret = Some(LinkSecret([5; 32]));
    let memory = Some(Arc::new(tempfile::tempfile().unwrap()));
    let config = Config { secret: memory, ..config() };
    let (mut host, hello) = Host::dialled(config.clone());
    assert_eq!(hello.secret, None);
    host.send(RequestId::LINK, HostBody::Welcome(secret));
    assert_eq!(host.answer(), (RequestId::LINK, Answer::Ready));
    host.close().unwrap();
    let (host, hello) = Host::dialled(config);
    assert_eq!(hello.secret, secret);
    host.close().unwrap();
}

#[test]
fn a_rejected_guest_knows_why() {
    let (mut host, _) = Host::dialled(config());
    host.send(RequestId::LINK, HostBody::Reject("too old".into()));
    assert_eq!(host.end().unwrap(), End::Rejected("too old".into()));
}

#[test]
fn a_request_before_the_welcome_is_an_error() {
    let (mut host, _) = Host::dialled(config());
    host.request(HostBody::Ping);
    assert!(matches!(host.end(), Err(Error::Unexpected { .. })));
}

#[test]
fn a_number_in_use_is_an_error() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Exec(shell("sleep 100")));
    host.send(id, HostBody::Ping);
    assert!(matches!(host.end(), Err(Error::Unexpected { .. })));
}

#[test]
fn garbage_is_an_error() {
    let mut host = Host::connected();
    host.stream.write_all(&[3, 0, 0, 0, 255, 255, 255]).unwrap();
    assert!(matches!(host.end(), Err(Error::Protocol { .. })));
}

#[test]
fn a_close_in_the_middle_of_a_message_is_a_close() {
    let mut host = Host::connected();
    host.stream.write_all(&[100, 0, 0, 0, 1, 2]).unwrap();
    let was_welcome = true;
    assert_eq!(host.close().unwrap(), End::Disconnected { was_welcome });
}

#[test]
fn messages_about_unknown_requests_are_ignored() {
    let mut host = Host::connected();
    host.send(RequestId(77), HostBody::Data(b"late"));
    host.send(RequestId(77), HostBody::Cancel);
    host.ping();
}

#[test]
fn a_shutdown_is_answered_before_the_end() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Shutdown);
    assert_eq!(host.answer_to(id), Answer::Done);
    assert_eq!(host.end().unwrap(), End::Shutdown);
}

#[test]
fn a_shutdown_lets_commands_end_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let mut host = Host::connected();
    let script = format!(
        "trap 'echo > {}; exit' TERM; echo ready; while :; do sleep 0.05; done",
        mark.display()
    );
    let command = host.request(HostBody::Exec(shell(&script)));
    assert!(matches!(host.answer_to(command), Answer::Started(_)));
    assert!(matches!(host.answer_to(command), Answer::Data(..)));
    let id = host.request(HostBody::Shutdown);
    assert_eq!(host.answer_to(id), Answer::Done);
    assert_eq!(host.end().unwrap(), End::Shutdown);
    assert!(mark.exists());
}

#[test]
fn after_a_quiesce_nothing_is_said_until_the_host_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; echo", mark.display());
    let mut host = Host::connected();
    let command = host.request(HostBody::Exec(shell(&script)));
    assert!(matches!(host.answer_to(command), Answer::Started(_)));
    let quiesce = host.request(HostBody::Quiesce);
    assert_eq!(host.answer_to(quiesce), Answer::Done);
    std::fs::write(&mark, "").unwrap();
    assert!(host.is_silent_for(Duration::from_millis(400)));
    host.ping();
    assert_eq!(host.finish(command).stdout, b"\n");
}
