//! What is the host's own is out of reach of a guest by every way, unless a policy names it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use guest_test::Server;
use intercept::{Policy, Reachable};
use netns::testing::{HOST, INTERNET, PRIVATE};
use sandbox::Interceptor;

use crate::scene::{Client, INSIDE, OTHER, OWN, Scene, allow, hello, soon};

/// A service of the host, at all of its addresses.
fn service() -> (Server, u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (Server::serve(listener, None, hello), port)
}

/// The policy of jobs, with the port of a name besides those of the web.
fn open_with(names: &[String]) -> Policy {
    Policy { allow: names.to_vec(), ..Policy::open() }
}

fn status(client: &Client, url: &str) -> u16 {
    let name = url.split(&['/', ':'][..]).nth(3).unwrap();
    let port = url.rsplit(':').next().unwrap().trim_end_matches('/');
    // By a name it is the proxy that looks the name up, so any address will do.
    client.curl(&["--resolve", &format!("{name}:{port}:{INTERNET}"), url]).1
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_service_of_the_host_is_refused_by_address_and_by_name() {
    let scene = Scene::new();
    let (server, port) = service();
    let client = scene.client(open_with(&[format!("{OWN}:{port}"), format!("{HOST}:{port}")]));

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
fn an_address_that_the_host_gets_later_and_a_name_that_leads_elsewhere_then_are_refused() {
    let scene = Scene::new();
    let (server, port) = service();
    let added = Ipv4Addr::new(100, 9, 9, 9);
    let elsewhere = scene.http(hello);
    let client = scene.client(open_with(&[format!("{added}:{port}")]));
    assert_eq!(client.curl(&[format!("http://{OTHER}/")]).1, 200);
    assert_eq!(elsewhere.requests().len(), 1);

    scene.world.add_host_address(added);
    fs::write(scene.folder.path().join("hosts"), format!("{HOST} {OTHER}\n")).unwrap();
    let own = Server::serve(TcpListener::bind((HOST, 80)).unwrap(), None, hello);
    let by_address = client.curl(&[format!("http://{added}:{port}/")]).1;
    let by_name = client.curl(&[format!("http://{OTHER}/")]).1;

    assert_eq!((by_address, by_name), (502, 502));
    assert!(server.requests().is_empty() && own.requests().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn no_way_of_writing_the_hosts_address_leads_there() {
    let scene = Scene::new();
    let (server, port) = service();
    let client = scene.client(Policy::open());
    let mapped = HOST.to_ipv6_mapped();

    for host in [format!("[{mapped}]"), "127.0.0.1".into(), "localhost".into(), "[::1]".into()] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        let heard = client.say((INTERNET, port), request.as_bytes());
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.contains(" 502 ") || heard.contains(" 403 "), "{host}: {heard}");
    }
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    assert!(!client.say((HOST, port), upgrade.as_bytes()).starts_with(b"HTTP/1.1 101"));
    // Neither HTTP nor TLS: bytes would be passed on as they are.
    assert!(client.say((HOST, port), b"\0\0\0\0").is_empty());
    assert!(server.requests().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_proxys_own_port_and_other_vms_are_refused() {
    let scene = Scene::new();
    let other = scene.client(Policy::open());
    let internal = vec!["10.0.0.0/8".parse().unwrap()];
    let port = other.pass.as_ref().unwrap().port();
    let vm = other.lease.address().unwrap();
    let client = scene.client(Policy { internal, ..open_with(&[format!("{HOST}:{port}")]) });

    let own_port = client.curl(&[format!("http://{HOST}:{port}/")]).1;
    let request = format!("GET / HTTP/1.1\r\nHost: {vm}\r\nConnection: close\r\n\r\n");
    let heard = client.say((INTERNET, 80), request.as_bytes());

    assert_eq!(own_port, 502);
    assert!(String::from_utf8_lossy(&heard).contains(" 502 "), "{heard:?}");
    assert!(other.end().is_empty());
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn what_a_policy_names_by_itself_is_reached_and_only_that() {
    let scene = Scene::new();
    let (server, port) = service();
    let (_other_server, other_port) = service();
    let names = [format!("{OWN}:{port}"), format!("{OWN}:{other_port}")];
    let wide = vec!["100.0.0.0/24".parse().unwrap()];
    let exact = vec![format!("{HOST}/32").parse().unwrap()];
    let reachable = vec![Reachable { host: OWN.to_owned(), port, addresses: vec![HOST] }];
    let url = format!("http://{OWN}:{port}/");

    let client = scene.client(Policy { internal: wide, ..open_with(&names) });
    assert_eq!(status(&client, &url), 502);
    drop(client);
    let client = scene.client(Policy { internal: exact, ..open_with(&names) });
    assert_eq!(status(&client, &url), 200);
    drop(client);
    let client = scene.client(Policy { reachable, ..open_with(&names) });
    assert_eq!(status(&client, &url), 200);
    assert_eq!(status(&client, &format!("http://{OWN}:{other_port}/")), 502);
    drop(client);
    // What it opened is closed when it goes.
    let client = scene.client(open_with(&names));
    assert_eq!(status(&client, &url), 502);
    assert_eq!(server.requests().len(), 2);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_private_socket_that_is_named_is_reached_by_its_name_at_its_address() {
    let scene = Scene::new();
    let listener = scene.world.on_the_internet(|| TcpListener::bind((PRIVATE, 80)).unwrap());
    let server = Server::serve(listener, None, hello);
    let at = |address| Reachable { host: INSIDE.to_owned(), port: 80, addresses: vec![address] };

    let named = Policy { reachable: vec![at(PRIVATE)], ..allow(&[INSIDE]) };
    let client = scene.client(named);
    assert_eq!(client.curl(&[format!("http://{INSIDE}/")]).1, 200);
    drop(client);
    let client = scene.client(Policy { reachable: vec![at(HOST)], ..allow(&[INSIDE]) });
    assert_eq!(client.curl(&[format!("http://{INSIDE}/")]).1, 502);
    assert_eq!(server.requests().len(), 1);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_proxy_whose_table_is_gone_lets_no_more_vms_in() {
    let scene = Scene::new();
    drop(scene.client(Policy::open()));
    scene.world.flush_rules();

    let guard = intercept::Guard::new(&scene.proxy, Policy::open());
    let error = guard.register([10, 200, 0, 2].into(), soon()).err().unwrap().to_string();

    assert!(error.contains("host's own addresses"), "{error}");
}
