//! Attempts to bypass the policy. Each must fail and be logged.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use netns::testing::INTERNET;

use crate::fixture::{API, Client, Fixture, INSIDE, OTHER, allow, hello};

fn say(client: &Client, port: u16, words: &'static [u8]) -> Vec<u8> {
    client.say((INTERNET, port), words)
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_host_of_a_request_must_match_its_connection() {
    let fixture = Fixture::new();
    let server = fixture.https(hello);
    let policy = intercept::Policy { deny: vec![API.to_owned()], ..allow(&[OTHER]) };
    let client = fixture.client_with(policy, |config| {
        // So that the connection is decrypted.
        config.with_secrets(vec![crate::credential::secret(OTHER)])
    });

    let fronted = client.curl(&["-H", &format!("Host: {API}"), &format!("https://{OTHER}/")]);
    let honest = client.curl(&[format!("https://{OTHER}/")]);

    assert_eq!((fronted.1, honest.1), (403, 200));
    assert!(fronted.0.contains("not that of the connection"), "{}", fronted.0);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(client.end()[0].firewall_rule_match.as_deref(), Some("host mismatch"));
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_name_that_resolves_to_a_private_address_is_rejected() {
    let fixture = Fixture::new();
    let inside =
        fixture.world.on_the_internet(|| TcpListener::bind((netns::testing::PRIVATE, 80)).unwrap());
    inside.set_nonblocking(true).unwrap();
    let client = fixture.client(allow(&[INSIDE]));

    let refused = client.curl(&[format!("http://{INSIDE}/")]);

    assert_eq!(refused.1, 502);
    assert!(inside.accept().is_err());
    let record = client.end();
    assert!(
        record[0].error.as_deref().unwrap().contains("not on the public internet"),
        "{record:?}"
    );
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn addresses_and_other_protocols_and_ports_are_rejected() {
    let fixture = Fixture::new();
    let policy = allow(&[OTHER]);
    let _servers = (fixture.https(hello), fixture.http(hello));
    let client = fixture.client(policy);

    let by_address = client.curl(&[format!("http://{INTERNET}/")]);
    let no_name = client.try_curl(&["-k", &format!("https://{INTERNET}/")]);
    let other_port = client.curl(&[format!("https://{OTHER}:8443/")]);
    let ssh = say(&client, 22, b"SSH-2.0-x\r\n\r\n");
    let dns = say(&client, 53, b"\0\x11\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01");
    let connect = say(&client, 80, b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n");

    assert_eq!((by_address.1, other_port.1), (403, 403));
    assert!(String::from_utf8_lossy(&no_name.stdout).ends_with("403"), "{no_name:?}");
    assert!(ssh.is_empty() && dns.is_empty());
    assert!(!String::from_utf8_lossy(&connect).contains(" 200 "));
    let record = client.end();
    assert_eq!(record.len(), 6, "{record:#?}");
    assert!(record.iter().all(|entry| entry.action == "DENY"), "{record:#?}");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn an_absolute_target_counts_as_a_host() {
    let fixture = Fixture::new();
    let server = fixture.http(hello);
    let client = fixture.client(allow(&[OTHER]));

    let received = say(
        &client,
        80,
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n",
    );

    assert!(String::from_utf8_lossy(&received).contains(" 403 "), "{received:?}");
    assert!(server.requests().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_malformed_request_is_logged_and_the_proxy_goes_on() {
    let fixture = Fixture::new();
    let _server = fixture.http(hello);
    let client = fixture.client(allow(&[OTHER]));

    say(
        &client,
        80,
        b"GET /\xff\xfe HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n",
    );
    say(&client, 80, b"GET / HTTP/1.1\r\nHost: \xff.example.com\r\nConnection: close\r\n\r\n");
    let endless: &'static [u8] = Box::leak(vec![b'a'; 4 << 20].into_boxed_slice());
    let endless =
        [b"GET / HTTP/1.1\r\nHost: other.example.com\r\nx: ", endless, b"\r\n\r\n"].concat();
    say(&client, 80, Box::leak(endless.into_boxed_slice()));

    assert_eq!(client.curl(&[format!("http://{OTHER}/")]).1, 200);
    let record = client.end();
    assert!(record.iter().any(|entry| entry.url.as_deref().unwrap_or_default().contains("/??")));
    assert_eq!(record[1].action, "DENY");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn an_unregistered_guest_loses_its_connections_and_gets_no_new_ones() {
    let fixture = Fixture::new();
    let _server = fixture.http(hello);
    let mut client = fixture.client(allow(&[OTHER]));
    let request = b"GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
    let mut stream = client.guest.run(|| TcpStream::connect((INTERNET, 80)).unwrap());
    stream.write_all(request).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    drop(client.registration.take());

    // The rest of the response may already be in transit.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(stream.write_all(request).is_err() || stream.read(&mut [0]).map_or(true, |n| n == 0));
    assert!(say(&client, 80, request).is_empty());
}
