//! Requests that are allowed and refused.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use netns::testing::INTERNET;
use serde_json::{Value, json};

use crate::scene::{API, OTHER, Scene, allow, hello, only_api};

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
fn a_request_passes_if_its_permission_is_given_and_is_told_why_if_not() {
    let scene = Scene::new();
    let server = scene.https(hello);
    let client = scene.client(only_api(firewall()));
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
fn a_host_that_nobody_has_to_look_into_is_passed_on_as_it_is() {
    let scene = Scene::new();
    let _server = scene.https(hello);
    let client = scene.client(allow(&[OTHER]));

    // Its own certificate is seen, which only the host trusts.
    let roots = scene.folder.path().join("roots.pem");
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
fn plain_http_and_http_2_are_decided_about_alike() {
    let scene = Scene::new();
    let (_https, http) = (scene.https(hello), scene.http(hello));
    let client = scene.client(allow(&[OTHER]));

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
fn a_large_body_of_a_refused_request_is_not_kept() {
    let scene = Scene::new();
    let client = scene.client(allow(&[OTHER]));
    let file = scene.folder.path().join("large");
    std::fs::write(&file, vec![0; 64 << 20]).unwrap();

    let upload = format!("@{}", file.display());
    let refused = client.curl(&["--data-binary", &upload, &format!("https://{API}/")]);

    assert_eq!(refused.1, 403);
}

/// Takes one WebSocket, hears five bytes and says five.
fn echo(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(accept.as_bytes()).unwrap();
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).unwrap();
    stream.write_all(b"\x81\x05hello").unwrap();
    // Until the client closes.
    let _ = stream.read_to_end(&mut head);
    (0..5).map(|at| char::from(frame[6 + at] ^ frame[2 + at % 4])).collect()
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_websocket_is_a_request_and_what_follows_it_is_counted() {
    let scene = Scene::new();
    let listener = scene.world.on_the_internet(|| TcpListener::bind((INTERNET, 80)).unwrap());
    let server = std::thread::Builder::new().spawn(move || echo(&listener)).unwrap();
    let mut firewall = firewall();
    firewall["apis"][0]["base"] = format!("http://{API}").into();
    let client = scene.client(only_api(firewall));
    let ask = |path: &str| {
        let mut stream = client.guest.run(|| TcpStream::connect((INTERNET, 80)).unwrap());
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {API}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).unwrap();
        (stream, begin)
    };

    let (_, refused) = ask("/other");
    let (mut stream, taken) = ask("/things/1");
    stream.write_all(b"\x81\x85\0\0\0\0ping!").unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        heard.extend(byte);
    }
    drop(stream);

    assert_eq!((&refused, &taken), (b"HTTP/1.1 403", b"HTTP/1.1 101"));
    assert_eq!(server.join().unwrap(), "ping!");
    let record = client.end();
    assert_eq!((record[0].status, record[1].status), (Some(403), Some(101)));
    assert_eq!((record[1].request_size, record[1].response_size), (Some(5), Some(5)));
}
