//! Against a server that misbehaves.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use guest_test::{Authority, Ending, Reply, Server};
use s3::{Bucket, Config, Credentials, Error, Style};

fn config(endpoint: String) -> Config {
    Config {
        endpoint,
        region: "us-east-1".into(),
        bucket: "jobs".into(),
        style: Style::Path,
        ca_file: None,
        credentials: Credentials::new("AKEXAMPLE", "the-secret"),
    }
}

fn bucket(server: &Server) -> Bucket {
    Bucket::new(config(server.url())).unwrap()
}

fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>x</Message></Error>")
}

/// The error of a list when everything is answered like this.
fn listing(reply: Reply) -> Error {
    let server = Server::start(move |_| reply.clone());
    bucket(&server).list("", "").unwrap_err()
}

#[test]
fn an_overloaded_or_broken_store_is_transient_and_a_refusal_is_final() {
    let slow = listing(Reply::bytes(error("SlowDown")).with_status(503));
    let broken = listing(Reply::bytes("<html>").with_status(500));
    let denied = listing(Reply::bytes(error("AccessDenied")).with_status(403));
    let digest = listing(Reply::bytes(error("BadDigest")).with_status(400));

    assert!(matches!(&slow, Error::Failed { code, .. } if code == "SlowDown"), "{slow}");
    assert!(matches!(&broken, Error::Failed { status: 500, .. }), "{broken}");
    assert!(matches!(&denied, Error::Denied { .. }), "{denied}");
    assert!(matches!(&digest, Error::Refused { code, .. } if code == "BadDigest"), "{digest}");
    assert!([slow, broken].iter().all(Error::is_transient));
    assert!(![denied, digest].iter().any(Error::is_transient));
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(|_| Reply::bytes("secret"));
    let to = elsewhere.url();

    let refused = listing(Reply::status(307).with("location", &to));

    assert!(matches!(refused, Error::Refused { status: 307, .. }), "{refused}");
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn a_broken_connection_is_tried_once_more() {
    let is_first = AtomicBool::new(true);
    let server = Server::start(move |_| {
        if is_first.swap(false, Ordering::Relaxed) {
            return Reply::dropped();
        }
        Reply::bytes("<ListBucketResult></ListBucketResult>")
    });

    assert_eq!(bucket(&server).list("", "").unwrap(), []);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_truncated_object_is_an_error_and_not_a_short_one() {
    let server = Server::start(|_| Reply::bytes("content").ending(Ending::CutAfter(3)));
    let mut object = bucket(&server).get("one").unwrap().unwrap();

    let read = object.reader.read_to_end(&mut Vec::new());

    assert_eq!(object.size, 7);
    assert!(read.is_err());
}

#[test]
fn an_endless_or_malformed_list_is_rejected() {
    let endless = listing(Reply::bytes(vec![b'x'; 5 << 20]));
    let cut = listing(Reply::bytes("<Contents>").ending(Ending::CutAfter(4)));
    let contents = "<Contents><Key>a</Key><Size>1</Size></Contents>";
    let timeless = listing(Reply::bytes(contents));
    let again = "<Contents><Key>a</Key><Size>1</Size>\
                 <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>";
    let server = Server::start(move |_| Reply::bytes(again));
    let repeated = bucket(&server).list("", "a").unwrap_err();

    assert!(matches!(endless, Error::BadReply { .. }), "{endless}");
    assert!(matches!(cut, Error::Unreachable { .. }), "{cut}");
    assert!(matches!(timeless, Error::BadReply { .. }), "{timeless}");
    assert!(matches!(repeated, Error::BadReply { .. }), "{repeated}");
}

#[test]
fn a_copy_that_failed_after_its_status_is_an_error() {
    let server = Server::start(|_| Reply::bytes(error("InternalError")));

    let copied = bucket(&server).copy("one", "\"etag\"", "other").unwrap_err();

    assert!(matches!(&copied, Error::Failed { code, .. } if code == "InternalError"), "{copied}");
}

#[test]
fn no_error_shows_a_credential_or_a_url() {
    let away = Bucket::new(config("http://127.0.0.1:1".into())).unwrap().stat("one").unwrap_err();
    let echo = Server::start(|request| Reply::bytes(error(request.target())).with_status(400));
    let echoed = bucket(&echo).list("", "").unwrap_err();

    for error in [away, echoed] {
        let text = format!("{error:?} {}", base::error::chain(&error));
        assert!(!["AKEXAMPLE", "the-secret", "X-Amz", "http"].iter().any(|one| text.contains(one)));
    }
}

#[test]
fn a_stores_own_authority_is_trusted_if_it_is_named() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    authority.install(&ca_file);
    let identity = authority.issue();
    let list = "<ListBucketResult></ListBucketResult>";
    let server = Server::start_tls(&identity, move |_| Reply::bytes(list));
    let plain = config(server.named_url());

    let trusted = Bucket::new(Config { ca_file: Some(ca_file), ..plain.clone() }).unwrap();
    let untrusted = Bucket::new(plain).unwrap();

    assert_eq!(trusted.list("", "").unwrap(), []);
    assert!(matches!(untrusted.list("", ""), Err(Error::Unreachable { .. })));
}

#[test]
fn a_malformed_configuration_is_rejected_without_its_secrets() {
    let endpoints =
        ["s3.example", "ftp://s3.example", "http://u:pass@s3.example", "http://s3.example/x"];
    let errors = endpoints.map(|endpoint| Bucket::new(config(endpoint.into())).unwrap_err());
    let name = Bucket::new(Config { bucket: "a/b".into(), ..config("http://s3.example".into()) });

    assert!(errors.iter().all(|error| matches!(error, Error::BadEndpoint { .. })));
    assert!(!errors[2].to_string().contains("pass"));
    assert!(matches!(name, Err(Error::BadName { .. })));
}

#[test]
fn a_bucket_is_in_the_path_or_in_the_hosts_name() {
    let at = |style| {
        let config = Config { style, ..config("https://s3.example:9000".into()) };
        let bucket = Bucket::new(config).unwrap();
        (bucket.origin(), bucket.presign(s3::Method::Get, "a/b", &[], std::time::Duration::ZERO))
    };
    let (path, host) = (at(Style::Path), at(Style::VirtualHost));

    assert_eq!(path.0, "https://s3.example:9000");
    assert!(path.1.starts_with("https://s3.example:9000/jobs/a/b?"));
    assert_eq!(host.0, "https://jobs.s3.example:9000");
    assert!(host.1.starts_with("https://jobs.s3.example:9000/a/b?"));
}
