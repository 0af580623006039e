//! Start, restart and end of the proxy.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use intercept::{CertificateAuthority, InterceptionConfig, Policy, Proxy, ProxyConfig};
use netns::testing::{INTERNET, World};
use sandbox::{Cause, HostFilter, HostSocket, Interceptor};

use crate::fixture::{Client, Fixture, OTHER, allow, hello, soon};

/// The process ID of the proxy.
fn proxy_of(fixture: &Fixture) -> i32 {
    let folder = fs::read_dir(fixture.folder.path().join("run")).unwrap().next().unwrap().unwrap();
    let needle = folder.path().into_os_string().into_string().unwrap();
    let is_it = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&needle)
    };
    let pids = fs::read_dir("/proc").unwrap();
    let mut pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.find(is_it).unwrap()
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_killed_proxy_is_restarted_and_requests_wait_for_it() {
    let fixture = Fixture::new();
    let _server = fixture.http(hello);
    let client = fixture.client(allow(&[OTHER]));
    assert_eq!(client.curl(&[format!("http://{OTHER}/")]).1, 200);

    let killed = Command::new("kill").args(["-9", &proxy_of(&fixture).to_string()]).status();
    assert!(killed.unwrap().success());

    // Requests wait in the listener. A connection that the killed proxy had accepted is lost.
    let answers = [0, 1].map(|_| client.try_curl(&[format!("http://{OTHER}/")]).stdout);
    assert!(answers.iter().any(|answer| answer.starts_with(b"hello")), "{answers:?}");
    assert_eq!(client.curl(&["http://api.example.com/"]).1, 403);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_proxy_runs_under_its_own_uid_and_ends_with_its_owner() {
    let fixture = Fixture::new();
    let client = fixture.client(Policy::none());
    let pid = proxy_of(&fixture);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(!line("Uid:").contains("\t0\t"));
    assert!(line("CapEff:").ends_with("0000000000000000"));
    assert!(line("NoNewPrivs:").ends_with('1'));

    drop(client);
    let Fixture { proxy, folder, .. } = fixture;
    drop(Arc::into_inner(proxy).unwrap());

    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_thousand_connections_of_ten_guests_are_served_at_once() {
    let fixture = Fixture::of(10);
    let _server = fixture.http(hello);
    let clients: Vec<_> = (0..10).map(|_| fixture.client(allow(&[OTHER]))).collect();
    let connect = || TcpStream::connect((INTERNET, 80)).unwrap();
    let open = |client: &Client| -> Vec<TcpStream> {
        client.guest.run(|| (0..100).map(|_| connect()).collect())
    };
    let mut streams: Vec<_> = clients.iter().flat_map(open).collect();

    for stream in &mut streams {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n").unwrap();
    }
    let answers: Vec<_> = streams
        .iter_mut()
        .map(|stream| {
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).unwrap();
            begin
        })
        .collect();

    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|begin| begin == b"HTTP/1.1 200"));
}

/// Reports success without restricting the proxy.
struct NoFilter;

impl HostFilter for NoFilter {
    fn permit(&self, _uid: u32, _sockets: &BTreeSet<HostSocket>) -> Result<(), Cause> {
        Ok(())
    }
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_proxy_without_the_kernels_filter_registers_no_vm() {
    let _world = World::enter();
    let permissions = fs::Permissions::from_mode(0o711);
    let folder = tempfile::Builder::new().permissions(permissions).tempdir().unwrap();
    let config = ProxyConfig {
        program: None,
        runtime_dir: folder.path().join("run"),
        authority: CertificateAuthority::open(&folder.path().join("state")).unwrap(),
        roots: None,
        host_filter: Arc::new(NoFilter),
    };
    let guard = InterceptionConfig::new(&Arc::new(Proxy::start(config).unwrap()), Policy::open());

    let error = guard.register([10, 0, 0, 1].into(), soon()).err().unwrap();

    assert!(error.to_string().contains("host's own addresses"), "{error}");
}

#[test]
fn a_failed_start_is_the_error_of_the_registration() {
    let folder = tempfile::tempdir().unwrap();
    let config = ProxyConfig {
        program: Some("/nonexistent/mitmdump".into()),
        runtime_dir: folder.path().join("run"),
        authority: CertificateAuthority::open(folder.path()).unwrap(),
        roots: None,
        host_filter: Arc::new(NoFilter),
    };
    let proxy = Arc::new(Proxy::start(config).unwrap());
    let guard = InterceptionConfig::new(&proxy, Policy::open());

    let error = guard.register([10, 0, 0, 1].into(), soon()).err().unwrap();

    assert!(error.to_string().contains("the proxy"), "{error}");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_malformed_policy_is_rejected() {
    let fixture = Fixture::new();
    let guard = InterceptionConfig::new(&fixture.proxy, allow(&["a..b"]));
    let error = guard.register([10, 200, 9, 2].into(), soon()).err().unwrap().to_string();
    assert!(error.contains("10.200.9.2"), "{error}");
}
