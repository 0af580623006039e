//! The client against a Firecracker that follows a script: what is sent, and what is made of every
//! kind of answer.

#![allow(clippy::unwrap_used, reason = "tests")]

mod boot;
mod fake;

use std::time::{Duration, Instant};

use fake::{Answer, Fake};
use sandbox_fc::Error;
use sandbox_fc::api::{Action, BootSource, Client, Drive, MachineConfig, VmState};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// The error of one call to a Firecracker that answers so.
fn error_of(answer: Answer) -> Error {
    let fake = Fake::start([answer]);
    let mut client = Client::connect(fake.socket()).unwrap();
    client.send(&Action::InstanceStart, soon()).unwrap_err()
}

#[test]
fn calls_go_out_in_order_on_one_connection() {
    let fake = Fake::start([Answer::Done, Answer::Done, Answer::Done]);
    let mut client = Client::connect(fake.socket()).unwrap();
    client.send(&MachineConfig { vcpu_count: 2, mem_size_mib: 512 }, soon()).unwrap();
    let boot =
        BootSource { kernel_image_path: "kernel", initrd_path: "initramfs", boot_args: "quiet" };
    client.send(&boot, soon()).unwrap();
    client.send(&VmState::Paused, soon()).unwrap();
    drop(client);
    assert_eq!(
        fake.finish(),
        [
            r#"PUT /machine-config {"vcpu_count":2,"mem_size_mib":512}"#,
            r#"PUT /boot-source {"kernel_image_path":"kernel","initrd_path":"initramfs","boot_args":"quiet"}"#,
            r#"PATCH /vm {"state":"Paused"}"#,
        ]
    );
}

#[test]
fn the_instance_info_of_firecracker_is_parsed() {
    let json =
        r#"{"id":"x","state":"Not started","vmm_version":"1.15.1","app_name":"Firecracker"}"#;
    let fake = Fake::start([Answer::Json(200, json.into())]);
    let info = Client::connect(fake.socket()).unwrap().instance_info(soon()).unwrap();
    assert_eq!((info.vmm_version.as_str(), info.state.as_str()), ("1.15.1", "Not started"));
}

#[test]
fn a_fault_has_firecrackers_message_and_the_connection_stays_usable() {
    let fault = r#"{"fault_message":"The kernel file cannot be opened: No such file"}"#;
    let fake = Fake::start([Answer::Json(400, fault.into()), Answer::Done]);
    let mut client = Client::connect(fake.socket()).unwrap();
    let error = client.send(&Action::InstanceStart, soon()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Firecracker refuses PUT /actions (400): The kernel file cannot be opened: No such file"
    );
    client.send(&Action::InstanceStart, soon()).unwrap();
}

#[test]
fn a_faults_control_characters_do_not_reach_the_terminal() {
    let error = error_of(Answer::Json(400, "\u{1b}[2Jboo".into())).to_string();
    assert!(error.ends_with("(400): [2Jboo"), "{error}");
}

#[test]
fn silence_ends_at_the_deadline_and_breaks_the_connection() {
    let fake = Fake::start([Answer::Silence]);
    let mut client = Client::connect(fake.socket()).unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = client.send(&Action::InstanceStart, deadline).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(Instant::now() >= deadline);
    let next = client.send(&Action::InstanceStart, soon()).unwrap_err();
    assert!(matches!(next, Error::Broken { .. }), "{next}");
}

#[test]
fn a_reply_that_trickles_in_ends_at_the_same_deadline() {
    let fake =
        Fake::start([Answer::Trickle("HTTP/1.1 200 \r\nContent-Length: 60000\r\n\r\n".into())]);
    let mut client = Client::connect(fake.socket()).unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = client.send(&Action::InstanceStart, deadline).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[test]
fn a_call_after_its_deadline_is_not_sent() {
    let fake = Fake::start([]);
    let mut client = Client::connect(fake.socket()).unwrap();
    let error = client.send(&Action::InstanceStart, Instant::now()).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    drop(client);
    assert!(fake.finish().is_empty());
}

#[test]
fn a_dropped_connection_is_an_error_at_once() {
    assert!(matches!(error_of(Answer::HangUp), Error::Closed { .. }));
    assert!(matches!(error_of(Answer::Raw("HTTP/1.1 204 ".into())), Error::Closed { .. }));
}

#[test]
fn a_malformed_reply_is_an_error() {
    assert!(matches!(error_of(Answer::Raw("\0\0\0 SSH-2.0".into())), Error::Garbled { .. }));
}

#[test]
fn a_huge_reply_is_refused_before_it_is_received() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n";
    assert!(matches!(error_of(Answer::Raw(head.into())), Error::TooLong { .. }));
    let endless = format!("HTTP/1.1 200 OK\r\nX-Pad: {}", "x".repeat(100_000));
    assert!(matches!(error_of(Answer::Raw(endless)), Error::TooLong { .. }));
}

#[test]
fn a_socket_without_a_listener_is_reported_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::connect(&folder.path().join("api.sock")).unwrap_err().to_string();
    assert!(error.contains("api.sock"), "{error}");
}

#[test]
fn a_drives_name_is_in_its_path() {
    let fake = Fake::start([Answer::Done]);
    let mut client = Client::connect(fake.socket()).unwrap();
    let drive = Drive {
        drive_id: "disk",
        path_on_host: "disk",
        is_root_device: false,
        is_read_only: false,
        cache_type: sandbox_fc::api::CacheType::Unsafe,
        rate_limiter: None,
    };
    client.send(&drive, soon()).unwrap();
    drop(client);
    assert!(fake.finish()[0].starts_with(r#"PUT /drives/disk {"drive_id":"disk""#));
}
