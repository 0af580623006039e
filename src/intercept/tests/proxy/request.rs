//! Allowed and rejected requests.

use serde_json::{Value, json};

use crate::fixture::{API, Fixture, OTHER, allow, hello, only_api};

fn firewall() -> Value {
    json!({
        "name": "example",
        "policy": {"allow": ["read"], "unknownPolicy": "ask"},
        "apis": [{
            "base": format!("https://{API}"),
            "permissions": [
                {"name": "read", "rules": ["GET /things/{id}"]},
                {"name": "write", "rules": ["ANY /{all*}"]},
            ],
        }],
    })
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_request_passes_with_a_permission_and_is_rejected_with_a_reason_without() {
    let fixture = Fixture::new();
    let server = fixture.https(hello);
    let client = fixture.client(only_api(firewall()));
    let url = |path: &str| format!("https://{API}{path}");

    let passed = client.curl(&[url("/things/1?secret=x")]);
    let refused = client.curl(&["-d", "x=1", &url("/things/1")]);

    assert_eq!(passed, ("hello".to_owned(), 200));
    assert_eq!(refused.1, 403);
    assert!(refused.0.contains("permission write (ANY /{all*}) needs approval"), "{}", refused.0);
    assert_eq!(server.requests().len(), 1);
    let record = client.end();
    assert_eq!(record.len(), 2);
    let (first, second) = (&record[0], &record[1]);
    assert_eq!((first.action.as_str(), first.status), ("ALLOW", Some(200)));
    assert_eq!(first.url.as_deref(), Some(&*url("/things/1")));
    assert_eq!(first.firewall_permission.as_deref(), Some("read"));
    assert_eq!(first.firewall_rule_match.as_deref(), Some("GET /things/{id}"));
    assert_eq!((first.response_size, first.method.as_deref()), (Some(5), Some("GET")));
    assert_eq!((second.action.as_str(), second.status), ("DENY", Some(403)));
    assert_eq!(second.firewall_name.as_deref(), Some("example"));
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_connection_without_rules_for_requests_is_not_decrypted() {
    let fixture = Fixture::new();
    let _server = fixture.https(hello);
    let client = fixture.client(allow(&[OTHER]));

    // The client sees the server's own certificate, which only the host trusts.
    let roots = fixture.folder.path().join("roots.pem");
    let url = format!("https://{OTHER}/path");
    let passed = client.curl(&["--cacert", roots.to_str().unwrap(), &url]);
    let refused = client.curl(&[format!("https://{API}/")]);

    assert_eq!(passed.0, "hello");
    assert_eq!(refused.1, 403);
    assert!(refused.0.contains("api.example.com is unknown"), "{}", refused.0);
    let record = client.end();
    assert_eq!((record[0].kind.as_str(), record[0].host.as_str()), ("tcp", OTHER));
    assert!(record[0].response_size > Some(5) && record[0].url.is_none());
    assert_eq!(record[1].action, "DENY");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn plain_http_and_http_2_get_the_same_verdicts() {
    let fixture = Fixture::new();
    let (_https, http) = (fixture.https(hello), fixture.http(hello));
    let client = fixture.client(allow(&[OTHER]));

    let plain = client.curl(&[format!("http://{OTHER}/")]);
    let refused = client.curl(&[format!("http://{API}/")]);
    let second = client.curl(&["--http2", &format!("https://{API}/")]);

    assert_eq!(plain.0, "hello");
    assert_eq!((refused.1, second.1), (403, 403));
    assert_eq!(http.requests().len(), 1);
    assert_eq!(client.end().len(), 3);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_large_body_of_a_rejected_request_is_not_buffered() {
    let fixture = Fixture::new();
    let client = fixture.client(allow(&[OTHER]));
    let file = fixture.folder.path().join("large");
    std::fs::write(&file, vec![0; 64 << 20]).unwrap();

    let upload = format!("@{}", file.display());
    let refused = client.curl(&["--data-binary", &upload, &format!("https://{API}/")]);

    assert_eq!(refused.1, 403);
}
