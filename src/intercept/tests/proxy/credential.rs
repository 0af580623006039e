//! Secrets and credentials that the guest never has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use guest_test::Reply;
use intercept::{Credential, CredentialError, CredentialProvider, Policy, Secret};
use serde_json::json;

use crate::fixture::{API, Fixture, OTHER, allow, hello, only_api};

const PLACEHOLDER: &str = "placeholder-of-the-key";
const VALUE: &str = "the-real-key-itself";

pub(crate) fn secret(host: &str) -> Secret {
    Secret {
        name: "KEY".to_owned(),
        placeholder: PLACEHOLDER.to_owned(),
        value: VALUE.to_owned(),
        hosts: vec![host.to_owned()],
    }
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_placeholder_is_replaced_for_its_host_and_rejected_for_others() {
    let fixture = Fixture::new();
    let (https, http) = (fixture.https(hello), fixture.http(hello));
    let client =
        fixture.client_with(allow(&[OTHER]), |config| config.with_secrets(vec![secret(API)]));
    let header = format!("x-key: {PLACEHOLDER}");

    let passed = client.curl(&["--http2", "-H", &header, &format!("https://{API}/")]);
    let plain = client.curl(&["-H", &header, &format!("http://{API}/")]);
    let other = client.curl(&["-H", &header, &format!("http://{OTHER}/")]);

    assert_eq!((passed.1, plain.1, other.1), (200, 403, 403));
    assert!(other.0.contains("the placeholder of KEY is not for http://other"), "{}", other.0);
    assert_eq!(https.requests()[0].header("x-key"), Some(VALUE));
    assert!(http.requests().is_empty());
    let record = client.end();
    assert_eq!(record[0].auth_resolved_secrets, ["KEY"]);
    let text = serde_json::to_string(&record).unwrap();
    assert!(!text.contains(VALUE) && !text.contains(PLACEHOLDER));
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_response_that_repeats_the_secret_is_masked() {
    let fixture = Fixture::new();
    let _server = fixture.https(|request| {
        let key = request.header("x-key").unwrap_or(VALUE);
        let reply = Reply::bytes(format!("you said {key}.").into_bytes());
        assert_eq!(request.header("range"), None);
        reply.with("set-cookie", "a=1").with("set-cookie", &format!("b={key}"))
    });
    let client =
        fixture.client_with(Policy::none(), |config| config.with_secrets(vec![secret(API)]));

    let header = format!("x-key: {PLACEHOLDER}");
    let (body, _) = client.curl(&["--compressed", "-H", &header, &format!("https://{API}/")]);

    // The server may have kept it, and repeat it later.
    let url = format!("https://{API}/");
    let (later, _) = client.curl(&["-i", "--range", "0-3", &url]);

    let masked = "*".repeat(VALUE.len());
    assert_eq!(body, format!("you said {masked}."));
    assert!(later.contains(&format!("you said {masked}.")), "{later}");
    assert!(
        later.contains("set-cookie: a=1") && later.contains(&format!("set-cookie: b={masked}"))
    );
}

/// Provides a value with a number that grows with each call.
#[derive(Default)]
struct Numbered {
    asked: Mutex<Vec<(usize, bool)>>,
}

impl CredentialProvider for Numbered {
    fn get(&self, api: usize, force: bool) -> Result<Credential, CredentialError> {
        let mut asked = self.asked.lock().unwrap();
        asked.push((api, force));
        let value = format!("Bearer value-{}", asked.len());
        Ok(Credential {
            headers: BTreeMap::from([("authorization".to_owned(), value)]),
            query: BTreeMap::from([("k".to_owned(), "in-query".to_owned())]),
            resolved_secrets: vec!["TOKEN".to_owned()],
            expires_at: Some(u32::MAX.into()),
            ..Credential::default()
        })
    }
}

fn api() -> serde_json::Value {
    json!({"name": "example", "apis": [{"base": format!("https://{API}"), "hasCredential": true}]})
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_credential_of_an_api_is_added_and_a_401_forces_one_refresh() {
    let fixture = Fixture::new();
    let served = Arc::new(AtomicUsize::new(0));
    let server = fixture.https(move |_| match served.fetch_add(1, Ordering::Relaxed) {
        1 => Reply::refusal(401, "expired"),
        _ => Reply::bytes(b"hello".to_vec()),
    });
    let credentials = Arc::new(Numbered::default());
    let own = Arc::clone(&credentials);
    let client = fixture.client_with(only_api(api()), move |config| {
        config.with_credentials(Some(Arc::clone(&own) as Arc<dyn CredentialProvider>))
    });

    let url = format!("https://{API}/x?a=1");
    let statuses: Vec<_> = (0..3)
        .map(|_| client.curl(&["-H", "Authorization: Bearer of-the-guest", &url]).1)
        .collect();

    assert_eq!(statuses, [200, 401, 200]);
    let requests = server.requests();
    let values: Vec<_> = requests.iter().map(|one| one.header("authorization").unwrap()).collect();
    assert_eq!(values, ["Bearer value-1", "Bearer value-1", "Bearer value-2"]);
    assert_eq!(requests[0].path, "/x?a=1&k=in-query");
    assert_eq!(*credentials.asked.lock().unwrap(), [(0, false), (0, true)]);
    assert_eq!(client.end()[0].auth_resolved_secrets, ["TOKEN"]);
}

struct Poor;

impl CredentialProvider for Poor {
    fn get(&self, _: usize, _: bool) -> Result<Credential, CredentialError> {
        Err(CredentialError { status: 424, reason: "not configured".to_owned() })
    }
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_request_without_its_credential_is_not_sent() {
    let fixture = Fixture::new();
    let server = fixture.https(hello);
    let with = fixture
        .client_with(only_api(api()), |config| config.with_credentials(Some(Arc::new(Poor))));
    let without = fixture.client(only_api(api()));

    let (text, status) = with.curl(&[format!("https://{API}/")]);

    assert_eq!((status, text.contains("not configured")), (424, true));
    assert_eq!(without.curl(&[format!("https://{API}/")]).1, 424);
    assert!(server.requests().is_empty());
}
