//! TLS trusts what the system's store has, and nothing else.
//!
//! The store is that of a process, by `SSL_CERT_FILE`, so each subscriber here is a process of its own:
//! this program again, with one test.

use std::path::Path;
use std::process::Command;

use ably_subscriber::{Config, Event, Hosts, subscribe};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::expect::LONG;
use crate::server::{Server, request, timing};

const ADDRESS: &str = "SUBSCRIBER_TEST_ADDRESS";

/// A new authority's certificate in `<name>.pem`, and a server's that it vouches for.
fn certify(folder: &Path, name: &str) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), issuer.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.2".to_owned()]).unwrap();
    let server = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join(format!("{name}-server.pem")), server.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}-server.key")), key.serialize_pem()).unwrap();
}

/// What the first event is for a process whose store has `store` alone.
fn first_event(server: &Server, store: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::a_subscriber_in_a_process_of_its_own", "--nocapture", "--ignored"])
        .env("SSL_CERT_FILE", store)
        .env_remove("SSL_CERT_DIR")
        .env(ADDRESS, format!("127.0.0.2:{}", server.port))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_server_with_a_ca_of_the_system_store_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "ours");
    let [certificate, key] =
        ["ours-server.pem", "ours-server.key"].map(|name| folder.path().join(name));
    let server = Server::start_tls(&certificate, &key);

    let event = first_event(&server, &folder.path().join("ours.pem"));

    assert!(event.contains("Connected"), "{event}");
}

#[test]
fn a_server_with_an_unknown_ca_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "ours");
    certify(folder.path(), "theirs");
    let [certificate, key] =
        ["theirs-server.pem", "theirs-server.key"].map(|name| folder.path().join(name));
    let server = Server::start_tls(&certificate, &key);

    let event = first_event(&server, &folder.path().join("ours.pem"));

    assert!(event.contains("cannot agree on TLS with 127.0.0.2"), "{event}");
    assert!(event.contains("UnknownIssuer"), "{event}");
    server.wait("refused", 1);
    assert_eq!((server.count("token"), server.count("upgrade")), (0, 0));
}

#[test]
#[ignore = "it is what the other tests here start"]
fn a_subscriber_in_a_process_of_its_own() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let hosts = Hosts::new(&address, &address).unwrap();
    let config = Config::new("jobs", request).hosts(hosts).timing(timing());
    let event: Event = subscribe(config).unwrap().recv_timeout(LONG).unwrap();
    println!("{event:?}");
}
