//! Clients that send what no program would: wrong tokens, sizes beyond all limits, JSON bombs, tricks in paths, hosts and ranges.

use super::*;

/// All calls on commands and files.
const CALLS: [&str; 22] = [
    "POST /process.Process/Start",
    "POST /process.Process/Connect",
    "POST /process.Process/List",
    "POST /process.Process/SendInput",
    "POST /process.Process/StreamInput",
    "POST /process.Process/CloseStdin",
    "POST /process.Process/SendSignal",
    "POST /process.Process/Update",
    "POST /filesystem.Filesystem/Stat",
    "POST /filesystem.Filesystem/ListDir",
    "POST /filesystem.Filesystem/MakeDir",
    "POST /filesystem.Filesystem/Move",
    "POST /filesystem.Filesystem/Remove",
    "POST /filesystem.Filesystem/WatchDir",
    "POST /filesystem.Filesystem/CreateWatcher",
    "POST /filesystem.Filesystem/GetWatcherEvents",
    "POST /filesystem.Filesystem/RemoveWatcher",
    "GET /files?path=a",
    "HEAD /files?path=a",
    "POST /files?path=a",
    "GET /envs",
    "GET /metrics",
];

/// Calls whose replies are streams.
const STREAMS: [&str; 4] = ["Start", "Connect", "StreamInput", "WatchDir"];

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

impl Lab {
    /// The content type that a call wants.
    fn typed(&self, line: &str) -> String {
        let is_stream = STREAMS.iter().any(|name| line.ends_with(&format!("/{name}")));
        let kind = match line {
            _ if is_stream => "application/connect+json",
            _ if line.contains("/files?") => "application/octet-stream",
            _ => "application/json",
        };
        format!("{}Content-Type: {kind}\r\n", self.headers())
    }

    fn nothing_was_called(&self) -> bool {
        self.launcher.factory.record().execs.is_empty()
    }
}

#[test]
fn each_call_needs_the_token_of_its_own_sandbox() {
    let lab = Lab::new(Script::default());
    let other = lab.sandboxes.create(&lab.caller, CreateRequest::new("base")).unwrap();
    let id = format!("E2b-Sandbox-Id: {}\r\n", lab.sandbox.id());
    for token in [other.envd_token(), "", "x", &lab.key] {
        for line in CALLS {
            let headers = format!("{id}X-Access-Token: {token}\r\nX-API-Key: {}\r\n", lab.key);
            assert_eq!(lab.send(line, &headers, b"").status, 401, "{line}");
        }
    }
    assert!(lab.nothing_was_called());
}

#[test]
fn heads_that_are_too_large_are_refused_by_each_call() {
    let lab = Lab::new(Script::default());
    for line in CALLS {
        let headers = lab.typed(line) + "X: " + &"a".repeat(20_000) + "\r\n";
        assert_eq!(lab.send(line, &headers, b"").status, 431, "{line}");
    }
    assert!(lab.nothing_was_called());
}

#[test]
fn bodies_that_are_too_large_are_refused_by_each_call_before_they_come() {
    let lab = Lab::new(Script::default());
    // `List` has nothing to read.
    for line in CALLS[..17].iter().filter(|line| !line.ends_with("/List")) {
        let headers = lab.typed(line) + "Content-Length: 1099511627776\r\n";
        let stream = lab.begin(line, &headers, b"");
        if line.ends_with("StreamInput") {
            // Its messages have the limit, and it is open as long as its client likes.
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let reply = Reply::of(stream);
        let is_stream = STREAMS.iter().any(|name| line.ends_with(&format!("/{name}")));
        assert_eq!(reply.status, if is_stream { 200 } else { 429 }, "{line}");
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains("resource_exhausted") || text.contains("canceled"), "{line}: {text}");
    }
    assert!(lab.nothing_was_called());
}

#[test]
fn json_bombs_are_refused_or_cost_no_more_than_their_size() {
    let lab = Lab::new(Script::default());
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let create = |value: &str| format!("{{\"templateID\":\"base\",\"metadata\":{value}}}");
    let many: Vec<String> = (0..60_000).map(|number| format!("\"{number}\":\"\"")).collect();
    let bombs = [
        deep("[", "]"),
        deep("{\"a\":", "}"),
        create(&deep("{\"a\":", "1}")),
        create(&format!("{{\"a\":\"{}\"}}", "x".repeat(900_000))),
        create(&format!("{{{}}}", many.join(","))),
        create(&format!("[{}0]", "0,".repeat(400_000))),
        format!("{{\"templateID\":\"base\",\"timeout\":1{}}}", "0".repeat(500_000)),
        "{\"templateID\":\"base\",\"timeout\":1e400}".to_owned(),
        "{\"templateID\":\"base\",\"timeout\":NaN}".to_owned(),
        "{\"templateID\":\"base\",\"timeout\":9223372036854775808}".to_owned(),
        format!("{{\"templateID\":\"{}\"}}", "\\ud800".repeat(1000)),
        "\u{feff}{}".to_owned(),
    ];
    let key = format!("X-API-Key: {}\r\n", lab.key);
    for bomb in &bombs {
        let reply = lab.send("POST /v2/sandboxes", &key, bomb.as_bytes());
        assert_eq!((reply.status, &reply.json()["code"]), (400, &json!(400)), "{bomb:.60}");
        let headers = "Content-Type: application/json\r\n";
        let reply = lab.call("POST /filesystem.Filesystem/Stat", headers, bomb.as_bytes());
        // What is no field of the message is skipped.
        assert!(matches!(reply.status, 200 | 400), "{bomb:.60}");
    }
    assert_eq!(lab.sandboxes.all().len(), 1);
}

#[test]
fn the_largest_timeout_is_refused_and_does_not_overflow() {
    let lab = Lab::new(Script::default());
    let key = format!("X-API-Key: {}\r\n", lab.key);
    let body = "{\"templateID\":\"base\",\"timeout\":9223372036854775807}";
    assert_eq!(lab.send("POST /v2/sandboxes", &key, body.as_bytes()).status, 400);
    let headers = "Content-Type: application/json\r\nConnect-Timeout-Ms: 9999999999\r\n";
    assert_eq!(lab.call("POST /process.Process/List", headers, b"{}").status, 200);
}

#[test]
fn paths_that_lead_to_no_file_of_the_user_are_refused() {
    let lab = Lab::new(Script::default());
    let home = lab.home.path();
    std::fs::create_dir(home.join("folder")).unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, home.join(name)).unwrap();
    link("loop", "loop");
    link("nowhere", "dangling");
    link("/dev/zero", "device");
    link("/proc/self/fd/0", "input");
    nix::unistd::mkfifo(&home.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(home.join("socket")).unwrap();
    let (long, deep) = ("n".repeat(300), "d/".repeat(3000) + "f");

    let get = |path: &str| lab.call(&format!("GET /files?path={path}"), "", b"").status;
    let post = |path: &str| lab.call(&format!("POST /files?path={path}"), OCTETS, b"text").status;
    for path in [
        "folder",
        "..",
        "%2e%2e",
        "/",
        "loop",
        "device",
        "fifo",
        "socket",
        "/dev/zero",
        "/dev/tty0",
        "a%00b",
        "%00",
        "%ff",
        &long,
        &deep,
        "folder/",
        "/proc",
        "/proc/self/fd",
    ] {
        let wanted = if path == "/dev/tty0" { [400, 404] } else { [400, 400] };
        assert!(wanted.contains(&get(path)), "GET {path}: {}", get(path));
    }
    for path in [
        "folder",
        "..",
        "%2e%2e",
        "/",
        "loop",
        "device",
        "fifo",
        "socket",
        "/dev/zero",
        "a%00b",
        &long,
    ] {
        assert_eq!(post(path), 400, "POST {path}");
    }
    assert_eq!((get("dangling"), get("folder/../no"), get("socket/x")), (404, 404, 400));
    assert_eq!(post("dangling"), 200, "the kernel makes what a link leads to");
    assert_eq!(std::fs::read(home.join("nowhere")).unwrap(), b"text");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let lab = Lab::new(Script::default());
    let reply = lab.call("GET /files?path=/proc/self/mem", "", b"");
    assert_eq!(reply.status, 500);
    assert!(reply.text().contains("cannot read /proc/self/mem"), "{}", reply.text());
}

#[test]
fn what_only_looks_like_a_host_of_a_port_reaches_no_port() {
    let lab = Lab::new(Script::default().listen(80).listen(443));
    let id = lab.sandbox.id();
    let upper = id.to_uppercase();
    let status = |headers: &str| lab.send("GET /", headers, b"").status;
    for (host, wanted) in [
        (format!("user@80-{id}.boxes.example"), 400),
        (format!("80-{id}.boxes.example/x"), 400),
        (format!("80-{id}.boxes.example, other"), 400),
        (format!("0-{id}.boxes.example"), 400),
        (format!("65536-{id}.boxes.example"), 400),
        (format!("80-{id}x.boxes.example"), 502),
        (format!("49984-{id}.boxes.example"), 502),
        (format!("49983-{id}.boxes.example"), 401),
        (format!("80-{id}.boxes.example.."), 401),
        (format!("80-{id}.boxes.example.evil"), 401),
        (format!("evil80-{id}.boxes.example"), 401),
        (format!("80.{id}.boxes.example"), 401),
        ("boxes.example".to_owned(), 401),
    ] {
        assert_eq!(status(&format!("Host: {host}\r\n")), wanted, "{host}");
    }
    let port = format!("80-{id}.boxes.example");
    for headers in [
        format!("Host: localhost\r\nX-Forwarded-Host: {port}\r\n"),
        format!("Host: localhost\r\nForwarded: host={port}\r\n"),
        format!("Host: localhost\r\nX-Original-Host: {port}\r\n"),
    ] {
        assert_eq!(status(&headers), 401, "{headers}");
    }
    let absolute = lab.send(&format!("GET http://{port}/"), "", b"");
    assert_eq!(absolute.status, 400);
    for (headers, wanted) in [
        (format!("Host: {port}\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 443\r\n"), 400),
        (format!("Host: {port}\r\nE2b-Sandbox-Id: {id}\r\n"), 400),
        (format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 0\r\n"), 400),
        (format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 65536\r\n"), 400),
        (format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 80, 80\r\n"), 400),
        (format!("E2b-Sandbox-Id: {upper}\r\nE2b-Sandbox-Port: 80\r\n"), 400),
    ] {
        assert_eq!(status(&headers), wanted, "{headers}");
    }
    assert!(lab.launcher.factory.record().connections.is_empty());
}

#[test]
fn a_host_is_the_same_in_any_case_and_with_the_dot_of_the_root() {
    let lab = Lab::new(Script::default().listen(80));
    let id = lab.sandbox.id().to_uppercase();
    for host in [format!("80-{id}.BOXES.example"), format!("080-{id}.boxes.Example.:1")] {
        let _client = lab.open("GET /", &format!("Host: {host}\r\n"), b"");
        let (port, mut guest) = wait_for_connection(&lab);
        assert_eq!((port, head(&mut guest)[0].as_str()), (80, "GET / HTTP/1.1"), "{host}");
    }
}

#[test]
fn requests_that_two_programs_could_read_in_two_ways_reach_no_port() {
    let lab = Lab::new(Script::default().listen(80));
    let to = format!("E2b-Sandbox-Id: {}\r\nE2b-Sandbox-Port: 80\r\n", lab.sandbox.id());
    let smuggled = b"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n";
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
    ] {
        let reply = Reply::of(lab.begin("POST /", &format!("{to}{framing}"), smuggled));
        assert!(matches!(reply.status, 400 | 501), "{framing:?}: {}", reply.head);
    }
    assert!(lab.launcher.factory.record().connections.is_empty());
}

#[test]
fn odd_ranges_get_the_whole_file_one_part_or_none() {
    let lab = Lab::new(Script::default());
    std::fs::write(lab.home.path().join("f"), b"0123456789").unwrap();
    let get = |range: &str| {
        let reply = lab.call("GET /files?path=f", &format!("Range: {range}\r\n"), b"");
        (reply.status, String::from_utf8(reply.body).unwrap())
    };
    let whole = (200, "0123456789".to_owned());
    for range in [
        "bytes=0-1,0-1,0-1",
        "bytes=0-,0-,0-",
        "bytes=--1",
        "bytes=-1-2",
        "bytes=5-4",
        "bytes=",
        "bytes=1-x",
        "bytes=0x1-2",
        "bytes=99999999999999999999-",
        "items=0-1",
        "bytes 0-1",
        "bytes=1-2;q=1",
    ] {
        assert_eq!(get(range), whole, "{range}");
    }
    for (range, part) in [
        ("bytes=0-18446744073709551615", "0123456789"),
        ("bytes=-18446744073709551615", "0123456789"),
        ("bytes=9-9", "9"),
        ("bytes=-1", "9"),
    ] {
        assert_eq!(get(range), (206, part.to_owned()), "{range}");
    }
    for range in
        ["bytes=10-", "bytes=18446744073709551615-", "bytes=9223372036854775808-", "bytes=-0"]
    {
        assert_eq!(get(range).0, 416, "{range}");
    }
}

#[test]
fn a_body_that_is_no_gzip_or_ends_within_it_is_refused() {
    let lab = Lab::new(Script::default());
    let headers = format!("{OCTETS}Content-Encoding: gzip\r\n");
    let post = |body: &[u8]| lab.call("POST /files?path=g", &headers, body).status;
    assert_eq!(post(b"not gzip at all"), 400);
    assert_eq!(post(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b"), 400);
    let twice = format!("{OCTETS}Content-Encoding: gzip, gzip\r\n");
    assert_eq!(lab.call("POST /files?path=g", &twice, b"").status, 400);
}
