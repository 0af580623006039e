//! Requests to real servers on loopback.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Seek as _, Write as _};
use std::thread;
use std::time::Duration;

use guest_test::{Ending, FakePlatform, Reply, Server};
use platform_client::{
    Error, HttpClient, PlatformAddresses, PlatformClient, PlatformCredentials, RequestCancellation,
    RequestLimits,
};
use serde_json::{Value, json};

fn limits(silence: Duration) -> RequestLimits {
    RequestLimits { whole: None, silence, redirects: 0 }
}

fn client() -> HttpClient {
    HttpClient::new(limits(Duration::from_secs(60)), &RequestCancellation::new())
}

fn platform(addresses: impl Into<PlatformAddresses>) -> PlatformClient {
    let credentials = PlatformCredentials {
        addresses: addresses.into(),
        token: "the-token".into(),
        bypass: Some("the-bypass".into()),
        client_session: "the-run".into(),
    };
    PlatformClient::new(&credentials, &RequestCancellation::new()).unwrap()
}

#[test]
fn a_call_has_the_contracts_headers() {
    let fake = FakePlatform::start();
    let platform = platform(fake.server.url());
    let path = "/api/webhooks/agent/heartbeat";
    let answer: Value = platform.post(path, &json!({ "runId": "the-run" })).unwrap();
    assert_eq!(answer["ok"], true);
    let request = &fake.calls("heartbeat")[0];
    let header = |name| request.header(name).unwrap();
    assert_eq!(header("authorization"), "Bearer the-token");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("x-vercel-protection-bypass"), "the-bypass");
    assert_eq!(
        (header("x-client-type"), header("x-client-session-id")),
        ("guest-agent", "the-run")
    );
    assert_eq!(header("x-client-request-id").len(), 36);
    assert!(!header("x-client-version").is_empty());
}

#[test]
fn each_attempt_has_an_id_of_its_own_and_the_third_one_counts() {
    let fake = FakePlatform::start();
    fake.answer("heartbeat", Reply::status(502).with("retry-after", "0"));
    fake.answer("heartbeat", Reply::refusal(429, "slowly").with("retry-after", "0"));
    let answer: Value =
        platform(fake.server.url()).post("/api/webhooks/agent/heartbeat", &json!({})).unwrap();
    assert_eq!(answer["ok"], true);
    let calls = fake.calls("heartbeat");
    let ids = calls.iter().map(|call| call.header("x-client-request-id").unwrap());
    assert_eq!(ids.collect::<std::collections::HashSet<_>>().len(), 3);
}

#[test]
fn an_error_reply_is_reported_with_its_message_and_without_the_token() {
    let server = Server::start(|_| Reply::refusal(403, "not your run"));
    let error = platform(server.url()).post::<Value>("/api/x", &json!({})).unwrap_err();
    assert_eq!(error.to_string(), "POST /api/x was answered with HTTP 403: not your run");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_reply_without_a_required_field_is_an_error() {
    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Needed {
        id: String,
    }
    let server = Server::start(|_| Reply::json(&json!({ "id": null })));
    let error = platform(server.url()).attempt::<Needed>("/api/x", b"{}").unwrap_err();
    assert!(matches!(error, Error::Answer { .. }) && error.is_retriable());
}

#[test]
fn an_empty_reply_is_accepted_where_no_field_is_required() {
    let server = Server::start(|_| Reply::status(200));
    assert_eq!(platform(server.url()).attempt::<Option<Value>>("/api/x", b"{}").unwrap(), None);
}

#[test]
fn an_endless_reply_is_rejected() {
    let server = Server::start(|_| Reply::bytes(vec![b' '; 5 << 20]));
    platform(server.url()).attempt::<Value>("/api/x", b"{}").unwrap_err();
}

#[test]
fn a_redirect_of_a_call_is_an_error_and_is_not_followed() {
    let server = Server::start(|_| Reply::status(307).with("location", "/elsewhere"));
    let error = platform(server.url()).post::<Value>("/api/x", &json!({})).unwrap_err();
    assert_eq!(error.status(), Some(307));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_truncated_body_is_an_error() {
    let server = Server::start(|_| Reply::bytes("0123456789").ending(Ending::CutAfter(5)));
    let mut text = String::new();
    client().get(&server.url(), &[]).unwrap().into_reader().read_to_string(&mut text).unwrap_err();
    assert_eq!(text, "01234");
}

#[test]
fn a_silent_server_is_an_error_after_the_timeout() {
    let server = Server::start(|_| Reply::bytes("0123456789").ending(Ending::SilentAfter(5)));
    let client = HttpClient::new(limits(Duration::from_millis(50)), &RequestCancellation::new());
    let mut text = String::new();
    client.get(&server.url(), &[]).unwrap().into_reader().read_to_string(&mut text).unwrap_err();
}

#[test]
fn a_stop_ends_a_request_that_waits_for_its_answer() {
    let server = Server::start(|_| Reply::bytes("x").ending(Ending::SilentAfter(0)));
    let stop = RequestCancellation::new();
    let client = HttpClient::new(limits(Duration::from_secs(3600)), &stop);
    let url = server.url();
    let waiting = thread::Builder::new()
        .spawn(move || client.get(&url, &[]).and_then(|answer| answer.bytes(10)))
        .unwrap();
    server.wait_for(|requests| !requests.is_empty());
    stop.cancel();
    waiting.join().unwrap().unwrap_err();
}

#[test]
fn after_a_stop_no_request_begins() {
    let server = Server::start(|_| Reply::status(200));
    let stop = RequestCancellation::new();
    stop.cancel();
    let client = HttpClient::new(limits(Duration::from_secs(60)), &stop);
    let refused = client.get(&server.url(), &[]).map(drop);
    assert!(matches!(refused, Err(Error::Stopped { .. })));
    assert!(server.requests().is_empty());
}

#[test]
fn an_upload_has_its_length_and_no_header_for_the_platform() {
    let server = Server::start(|_| Reply::status(200));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.rewind().unwrap();
    client().put(&format!("{}/p?s=1", server.url()), "application/gzip", &file, 10).unwrap();
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.body.as_slice()), ("PUT", &b"0123456789"[..]));
    assert_eq!(request.header("content-length"), Some("10"));
    assert_eq!(request.header("content-type"), Some("application/gzip"));
    assert!(
        request.headers.iter().all(|(name, _)| !name.starts_with("x-") && name != "authorization")
    );
    assert_eq!(request.header("transfer-encoding"), None);
}

#[test]
fn no_error_holds_a_url() {
    let server = Server::start(|_| Reply::status(500));
    let url = server.url();
    drop(server);
    for url in [format!("{url}/secret"), "secret://x/secret".into(), "http://x:secret/".into()] {
        let error = client().get(&url, &[]).map(drop).unwrap_err();
        let text = base::error::chain(&error);
        assert!(!text.contains("secret"), "{text}");
    }
}

/// A client that prefers the first of these URLs.
fn platform_at(urls: [String; 2]) -> PlatformClient {
    platform(PlatformAddresses::preferring(0, &urls))
}

/// The URL of a port that nothing listens on.
fn gone() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}")
}

#[test]
fn a_request_goes_to_the_next_address_when_one_does_not_answer() {
    let cut = Reply::json(&json!({"ok": 1})).ending(Ending::CutAfter(1));
    let answers =
        [Reply::status(502), Reply::status(503), Reply::status(504), Reply::dropped(), cut];
    let mut urls = vec![gone()];
    let failing = answers.map(|answer| Server::start(move |_| answer.clone()));
    urls.extend(failing.iter().map(Server::url));

    let answered = urls.into_iter().map(|url| {
        let working = Server::start(|_| Reply::json(&json!({"ok": true})));
        let answer: Value = platform_at([url, working.url()]).attempt("/x", b"{}").unwrap();
        (answer, working.requests().len())
    });

    assert_eq!(answered.collect::<Vec<_>>(), vec![(json!({"ok": true}), 1); 6]);
    assert!(failing.iter().all(|server| server.requests().len() == 1));
}

#[test]
fn the_same_request_at_another_address_has_the_same_id() {
    let first = Server::start(|_| Reply::dropped());
    let second = Server::start(|_| Reply::json(&json!({})));
    platform_at([first.url(), second.url()]).attempt::<Value>("/x", b"{}").unwrap();

    let id = |server: &Server| {
        server.requests()[0].header("x-client-request-id").map(str::to_owned).unwrap()
    };

    assert_eq!(id(&first), id(&second));
}

#[test]
fn a_refusal_is_not_repeated_at_another_address() {
    let first = Server::start(|_| Reply::refusal(409, "taken"));
    let second = Server::start(|_| Reply::json(&json!({})));

    let error = platform_at([first.url(), second.url()]).attempt::<Value>("/x", b"{}").unwrap_err();

    assert_eq!(error.status(), Some(409));
    assert!(second.requests().is_empty());
}

#[test]
fn a_request_without_any_answer_fails_with_the_last_reason() {
    let busy = Server::start(|_| Reply::refusal(503, "busy"));

    let error = platform_at([gone(), busy.url()]).attempt::<Value>("/x", b"{}").unwrap_err();

    assert_eq!(error.to_string(), "POST /x was answered with HTTP 503: busy");
}

#[test]
fn a_cancelled_request_does_not_go_to_the_next_address() {
    let mute = Server::start(|_| Reply::mute());
    let second = Server::start(|_| Reply::json(&json!({})));
    let stop = RequestCancellation::new();
    let credentials = PlatformCredentials {
        addresses: PlatformAddresses::preferring(0, &[mute.url(), second.url()]),
        token: "t".into(),
        bypass: None,
        client_session: "r".into(),
    };
    let client = PlatformClient::new(&credentials, &stop).unwrap();

    let result = thread::scope(|scope| {
        let request = scope.spawn(|| client.attempt::<Value>("/x", b"{}"));
        mute.wait_for(|requests| !requests.is_empty());
        stop.cancel();
        request.join().unwrap()
    });

    assert!(matches!(result, Err(Error::Stopped { .. })), "{result:?}");
    assert!(second.requests().is_empty());
}

#[test]
fn an_authority_of_a_file_is_trusted_and_no_expired_or_other_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = guest_test::Authority::new();
    let ca = dir.path().join("ca.pem");
    authority.install(&ca);
    let served = |identity: &guest_test::Identity| {
        let server = Server::start_tls(identity, |_| Reply::json(&json!({"ok": true})));
        let addresses = PlatformAddresses::from(server.named_url()).trusting(&ca).unwrap();
        let answer = platform(addresses).attempt::<Value>("/x", b"{}");
        let unknowing = platform(server.named_url()).attempt::<Value>("/x", b"{}");
        assert!(unknowing.is_err());
        answer.map_err(|error| base::error::chain(&error))
    };

    let good = served(&authority.issue());
    let expired = served(&authority.issue_expired());
    let other = served(&guest_test::Authority::new().issue());
    let misnamed = served(&authority.issue_for(&["elsewhere.example"]));

    assert_eq!(good, Ok(json!({"ok": true})));
    for (refused, reason) in
        [(expired, "xpired"), (other, "invalid peer certificate"), (misnamed, "not valid for")]
    {
        let text = refused.unwrap_err();
        assert!(text.contains(reason), "{text}");
    }
}
