//! The host's own addresses are out of reach for a guest, unless a policy names them.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use guest_test::Server;
use intercept::{Policy, Reachable};
use netns::testing::{HOST, INTERNET, PRIVATE};
use sandbox::Interceptor;

use crate::fixture::{Client, Fixture, INSIDE, OTHER, OWN, allow, hello, soon};

/// A service on all addresses of the host.
fn service() -> (Server, u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (Server::serve(listener, None, hello), port)
}

/// The default policy of jobs, and these names with their ports.
fn open_with(names: &[String]) -> Policy {
    Policy { allow: names.to_vec(), ..Policy::open() }
}

fn status(client: &Client, url: &str) -> u16 {
    let name = url.split(&['/', ':'][..]).nth(3).unwrap();
    let port = url.rsplit(':').next().unwrap().trim_end_matches('/');
    // The proxy resolves names itself, so any address will do here.
    client.curl(&["--resolve", &format!("{name}:{port}:{INTERNET}"), url]).1
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_service_of_the_host_is_rejected_by_address_and_by_name() {
    let fixture = Fixture::new();
    let (server, port) = service();
    let client = fixture.client(open_with(&[format!("{OWN}:{port}"), format!("{HOST}:{port}")]));

    let by_name = status(&client, &format!("http://{OWN}:{port}/"));
    let by_address = client.curl(&[format!("http://{HOST}:{port}/")]).1;

    assert_eq!((by_name, by_address), (502, 502));
    assert!(server.requests().is_empty());
    let record = client.end();
    let errors: Vec<_> = record.iter().filter_map(|entry| entry.error.as_deref()).collect();
    assert!(errors.iter().all(|error| error.contains("runner's own host")), "{record:#?}");
    assert_eq!(errors.len(), 2, "{record:#?}");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_new_address_of_the_host_and_a_name_that_changes_to_it_are_rejected() {
    let fixture = Fixture::new();
    let (server, port) = service();
    let added = Ipv4Addr::new(100, 9, 9, 9);
    let elsewhere = fixture.http(hello);
    let client = fixture.client(open_with(&[format!("{added}:{port}")]));
    assert_eq!(client.curl(&[format!("http://{OTHER}/")]).1, 200);
    assert_eq!(elsewhere.requests().len(), 1);

    fixture.world.add_host_address(added);
    fs::write(fixture.folder.path().join("hosts"), format!("{HOST} {OTHER}\n")).unwrap();
    let own = Server::serve(TcpListener::bind((HOST, 80)).unwrap(), None, hello);
    let by_address = client.curl(&[format!("http://{added}:{port}/")]).1;
    let by_name = client.curl(&[format!("http://{OTHER}/")]).1;

    assert_eq!((by_address, by_name), (502, 502));
    assert!(server.requests().is_empty() && own.requests().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn no_spelling_of_the_hosts_address_reaches_it() {
    let fixture = Fixture::new();
    let (server, port) = service();
    let client = fixture.client(Policy::open());
    let mapped = HOST.to_ipv6_mapped();

    for host in [format!("[{mapped}]"), "127.0.0.1".into(), "localhost".into(), "[::1]".into()] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        let received = client.say((INTERNET, port), request.as_bytes());
        let received = String::from_utf8_lossy(&received).into_owned();
        assert!(received.contains(" 502 ") || received.contains(" 403 "), "{host}: {received}");
    }
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    assert!(!client.say((HOST, port), upgrade.as_bytes()).starts_with(b"HTTP/1.1 101"));
    // Neither HTTP nor TLS: bytes are forwarded unchanged.
    assert!(client.say((HOST, port), b"\0\0\0\0").is_empty());
    assert!(server.requests().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_proxys_own_port_and_other_vms_are_rejected() {
    let fixture = Fixture::new();
    let other = fixture.client(Policy::open());
    let internal = vec!["10.0.0.0/8".parse().unwrap()];
    let port = other.registration.as_ref().unwrap().port();
    let vm = other.lease.address().unwrap();
    let client = fixture.client(Policy { internal, ..open_with(&[format!("{HOST}:{port}")]) });

    let own_port = client.curl(&[format!("http://{HOST}:{port}/")]).1;
    let request = format!("GET / HTTP/1.1\r\nHost: {vm}\r\nConnection: close\r\n\r\n");
    let received = client.say((INTERNET, 80), request.as_bytes());

    assert_eq!(own_port, 502);
    assert!(String::from_utf8_lossy(&received).contains(" 502 "), "{received:?}");
    assert!(other.end().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn only_the_named_socket_of_the_host_is_reached() {
    let fixture = Fixture::new();
    let (server, port) = service();
    let (_other_server, other_port) = service();
    let names = [format!("{OWN}:{port}"), format!("{OWN}:{other_port}")];
    let wide = vec!["100.0.0.0/24".parse().unwrap()];
    let exact = vec![format!("{HOST}/32").parse().unwrap()];
    let reachable = vec![Reachable { host: OWN.to_owned(), port, addresses: vec![HOST] }];
    let url = format!("http://{OWN}:{port}/");

    let client = fixture.client(Policy { internal: wide, ..open_with(&names) });
    assert_eq!(status(&client, &url), 502);
    drop(client);
    let client = fixture.client(Policy { internal: exact, ..open_with(&names) });
    assert_eq!(status(&client, &url), 200);
    drop(client);
    let client = fixture.client(Policy { reachable, ..open_with(&names) });
    assert_eq!(status(&client, &url), 200);
    assert_eq!(status(&client, &format!("http://{OWN}:{other_port}/")), 502);
    drop(client);
    // The exception ends with its VM.
    let client = fixture.client(open_with(&names));
    assert_eq!(status(&client, &url), 502);
    assert_eq!(server.requests().len(), 2);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_named_private_socket_is_reached_only_at_its_address() {
    let fixture = Fixture::new();
    let listener = fixture.world.on_the_internet(|| TcpListener::bind((PRIVATE, 80)).unwrap());
    let server = Server::serve(listener, None, hello);
    let at = |address| Reachable { host: INSIDE.to_owned(), port: 80, addresses: vec![address] };

    let named = Policy { reachable: vec![at(PRIVATE)], ..allow(&[INSIDE]) };
    let client = fixture.client(named);
    assert_eq!(client.curl(&[format!("http://{INSIDE}/")]).1, 200);
    drop(client);
    let client = fixture.client(Policy { reachable: vec![at(HOST)], ..allow(&[INSIDE]) });
    assert_eq!(client.curl(&[format!("http://{INSIDE}/")]).1, 502);
    assert_eq!(server.requests().len(), 1);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_proxy_whose_filter_is_gone_registers_no_more_vms() {
    let fixture = Fixture::new();
    drop(fixture.client(Policy::open()));
    fixture.world.flush_rules();

    let config = intercept::InterceptionConfig::new(&fixture.proxy, Policy::open());
    let error = config.register([10, 200, 0, 2].into(), soon()).err().unwrap().to_string();

    assert!(error.contains("host's own addresses"), "{error}");
}
