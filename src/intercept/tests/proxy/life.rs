//! How the proxy lives, and dies.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use intercept::{Authority, Config, Guard, Policy, Proxy};
use netns::testing::{INTERNET, World};
use sandbox::{Cause, HostFilter, HostSocket, Interceptor};

use crate::scene::{Client, OTHER, Scene, allow, hello, soon};

/// The proxy's process.
fn proxy_of(scene: &Scene) -> i32 {
    let folder = fs::read_dir(scene.folder.path().join("run")).unwrap().next().unwrap().unwrap();
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
fn a_proxy_that_is_killed_is_started_anew_and_requests_wait_for_it() {
    let scene = Scene::new();
    let _server = scene.http(hello);
    let client = scene.client(allow(&[OTHER]));
    assert_eq!(client.curl(&[format!("http://{OTHER}/")]).1, 200);

    let killed = Command::new("kill").args(["-9", &proxy_of(&scene).to_string()]).status();
    assert!(killed.unwrap().success());

    // The listener stays: the request waits in it. One that was taken by the dead is lost.
    let answers = [0, 1].map(|_| client.try_curl(&[format!("http://{OTHER}/")]).stdout);
    assert!(answers.iter().any(|answer| answer.starts_with(b"hello")), "{answers:?}");
    assert_eq!(client.curl(&["http://api.example.com/"]).1, 403);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn the_proxy_runs_as_a_user_of_its_own_and_goes_with_its_owner() {
    let scene = Scene::new();
    let client = scene.client(Policy::none());
    let pid = proxy_of(&scene);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(!line("Uid:").contains("\t0\t"));
    assert!(line("CapEff:").ends_with("0000000000000000"));
    assert!(line("NoNewPrivs:").ends_with('1'));

    drop(client);
    let Scene { proxy, folder, .. } = scene;
    drop(Arc::into_inner(proxy).unwrap());

    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_thousand_connections_of_ten_guests_are_served_at_once() {
    let scene = Scene::of(10);
    let _server = scene.http(hello);
    let clients: Vec<_> = (0..10).map(|_| scene.client(allow(&[OTHER]))).collect();
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

/// One that says that it restricts the proxy, and does not.
struct NoFilter;

impl HostFilter for NoFilter {
    fn permit(&self, _uid: u32, _sockets: &BTreeSet<HostSocket>) -> Result<(), Cause> {
        Ok(())
    }
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_proxy_that_the_kernel_does_not_restrict_admits_nobody() {
    let _world = World::enter();
    let permissions = fs::Permissions::from_mode(0o711);
    let folder = tempfile::Builder::new().permissions(permissions).tempdir().unwrap();
    let config = Config {
        program: None,
        runtime_dir: folder.path().join("run"),
        authority: Authority::open(&folder.path().join("state")).unwrap(),
        roots: None,
        host_filter: Arc::new(NoFilter),
    };
    let guard = Guard::new(&Arc::new(Proxy::start(config).unwrap()), Policy::open());

    let error = guard.register([10, 0, 0, 1].into(), soon()).err().unwrap();

    assert!(error.to_string().contains("host's own addresses"), "{error}");
}

#[test]
fn a_proxy_that_cannot_be_started_admits_nobody_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        program: Some("/nonexistent/mitmdump".into()),
        runtime_dir: folder.path().join("run"),
        authority: Authority::open(folder.path()).unwrap(),
        roots: None,
        host_filter: Arc::new(NoFilter),
    };
    let proxy = Arc::new(Proxy::start(config).unwrap());
    let guard = Guard::new(&proxy, Policy::open());

    let error = guard.register([10, 0, 0, 1].into(), soon()).err().unwrap();

    assert!(error.to_string().contains("the proxy"), "{error}");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_policy_that_is_not_understood_admits_nobody() {
    let scene = Scene::new();
    let guard = Guard::new(&scene.proxy, allow(&["a..b"]));
    let error = guard.register([10, 200, 9, 2].into(), soon()).err().unwrap().to_string();
    assert!(error.contains("10.200.9.2"), "{error}");
}
