//! A boot as Firecracker sees it.

use sandbox::DiskLimits;
use sandbox_fc::Error;
use sandbox_fc::api::Client;
use sandbox_fc::boot::{Boot, boot};

use crate::fake::{Answer, Fake};
use crate::soon;

fn version(text: &str) -> Answer {
    Answer::Json(200, format!(r#"{{"state":"Not started","vmm_version":"{text}"}}"#))
}

fn vm(has_network: bool) -> Boot<'static> {
    let disk_limits = DiskLimits::default();
    Boot { vcpus: 2, memory_mib: 512, command_line: "quiet", has_network, disk_limits }
}

/// A boot whose requests are answered so: how it went, and what was asked.
fn requests(answers: Vec<Answer>, vm: &Boot<'_>) -> (Result<(), Error>, Vec<String>) {
    let fake = Fake::start(answers);
    let mut client = Client::connect(fake.socket()).unwrap();
    let booted = boot(&mut client, vm, soon());
    drop(client);
    (booted, fake.finish())
}

/// The same without the bodies.
fn asked(answers: Vec<Answer>, has_network: bool) -> (Result<(), Error>, Vec<String>) {
    let (booted, asked) = requests(answers, &vm(has_network));
    let heads = asked.iter().map(|request| request.split(" {").next().unwrap().to_owned());
    (booted, heads.collect())
}

fn done(count: usize) -> Vec<Answer> {
    let mut answers = vec![version("1.15.1")];
    answers.resize_with(count + 1, || Answer::Done);
    answers
}

#[test]
fn all_devices_are_configured_before_the_guest_starts() {
    let (booted, asked) = asked(done(9), true);
    booted.unwrap();
    assert_eq!(
        asked,
        [
            "GET /",
            "PUT /machine-config",
            "PUT /boot-source",
            "PUT /drives/rootfs",
            "PUT /drives/disk",
            "PUT /network-interfaces/eth0",
            "PUT /vsock",
            "PUT /entropy",
            "PUT /balloon",
            "PUT /actions",
        ]
    );
}

#[test]
fn a_vm_without_a_network_has_no_network_interface() {
    let (booted, asked) = asked(done(8), false);
    booted.unwrap();
    assert!(!asked.iter().any(|request| request.contains("network")), "{asked:?}");
}

#[test]
fn each_disk_has_its_rate_limiter() {
    let disk_limits =
        DiskLimits { bytes_per_second: Some(200_000_000), operations_per_second: None };
    let (booted, asked) = requests(done(8), &Boot { disk_limits, ..vm(false) });
    booted.unwrap();
    let limiter = r#""rate_limiter":{"bandwidth":{"size":200000000,"refill_time":1000}}}"#;
    for drive in [&asked[3], &asked[4]] {
        assert!(drive.starts_with("PUT /drives/") && drive.ends_with(limiter), "{drive}");
    }
}

#[test]
fn a_disk_without_limits_has_no_limiter() {
    let (_, asked) = requests(done(8), &vm(false));
    assert!(!asked.iter().any(|request| request.contains("rate_limiter")), "{asked:?}");
}

#[test]
fn a_vulnerable_version_receives_no_request() {
    let (booted, asked) = asked(vec![version("1.14.0")], false);
    let error = booted.unwrap_err().to_string();
    assert!(error.starts_with("Firecracker 1.14.0 must not be used"), "{error}");
    assert_eq!(asked, ["GET /"]);
}

#[test]
fn a_refused_request_ends_the_boot() {
    let fault = r#"{"fault_message":"The kernel file cannot be opened"}"#.to_owned();
    let answers = vec![version("1.15.1"), Answer::Done, Answer::Json(400, fault)];
    let (booted, asked) = asked(answers, false);
    assert!(matches!(booted, Err(Error::Refused { status: 400, .. })), "{booted:?}");
    assert_eq!(asked.last().unwrap(), "PUT /boot-source");
}
