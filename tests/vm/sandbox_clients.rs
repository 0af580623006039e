//! Programs that use sandboxes badly: files that are not theirs, a full disk, sandboxes that end in the middle of calls,
//! clients and servers that are killed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::host::Host;
use crate::runner::Runner;
use crate::sandboxes::SandboxServer;

/// A sandbox of a server.
struct Sandbox<'a> {
    server: &'a SandboxServer,
    id: String,
    token: String,
}

impl<'a> Sandbox<'a> {
    fn create(server: &'a SandboxServer) -> Self {
        let (id, token) = server.create_with_token(&json!({"templateID": "default"}));
        Self { server, id, token }
    }

    fn path(&self, rest: &str) -> String {
        format!("/sandboxes/{}{rest}", self.id)
    }

    /// Sends the head of a request, and what is there of its body.
    fn begin(&self, line: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.address).unwrap();
        let (id, token) = (&self.id, &self.token);
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nE2b-Sandbox-Id: {id}\r\n\
             X-Access-Token: {token}\r\n{headers}\r\n"
        );
        // The server may answer before it has read everything.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        stream
    }

    /// The status and the rest of a reply.
    fn call(&self, line: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        reply(self.begin(line, &headers, body))
    }

    fn get(&self, path: &str, user: &str) -> (u16, String) {
        self.call(&format!("GET /files?path={path}&username={user}"), "", b"")
    }

    fn post(&self, path: &str, user: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let headers = format!("Content-Type: application/octet-stream\r\n{headers}");
        self.call(&format!("POST /files?path={path}&username={user}"), &headers, body)
    }

    /// A stream of a command.
    fn start(&self, command: &Value) -> TcpStream {
        let body = connect_rpc::message(command).unwrap();
        let length = body.len();
        let headers =
            format!("Content-Type: application/connect+json\r\nContent-Length: {length}\r\n");
        let mut stream = self.begin("POST /process.Process/Start", &headers, &body);
        until(&mut stream, "\"pid\":");
        stream
    }

    /// Runs a script as root to its end.
    fn shell(&self, script: &str) {
        let command = json!({"process": {"cmd": "sh", "args": ["-c", script]}, "stdin": false});
        let mut all = String::new();
        self.start(&command).read_to_string(&mut all).unwrap();
        assert!(all.contains("\"exitCode\":0"), "{all}");
    }
}

fn until(stream: &mut TcpStream, text: &str) {
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !all.ends_with(text.as_bytes()) {
        stream.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }
}

fn reply(mut stream: TcpStream) -> (u16, String) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let all = String::from_utf8_lossy(&all).into_owned();
    let status = all.split(' ').nth(1).expect(&all).parse().unwrap();
    (status, all)
}

#[test]
#[ignore = "needs root and QEMU"]
fn files_over_http_have_the_users_rights_and_a_full_disk_says_so() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    let sandbox = Sandbox::create(&server);
    let named = format!("sandbox-{}", sandbox.id);
    let script = "echo secret >/root/secret; chmod 600 /root/secret; chmod 711 /root; \
        cd /home/user && ln -s /root/secret link && mkfifo fifo && mknod disk b 254 0 && chmod 666 disk fifo \
        && echo own >own && chown user own && echo shown >shown && chmod 604 shown";
    runner.succeed(&["exec", &named, "--", "sh", "-c", script]);

    let status = |path: &str| {
        let path =
            if path.starts_with('/') { path.to_owned() } else { format!("/home/user/{path}") };
        (sandbox.get(&path, "user").0, sandbox.get(&path, "root").0)
    };
    assert_eq!(["own", "shown", "/root/secret"].map(status), [(200, 200), (200, 200), (403, 200)]);
    // The link is the user's, and what it leads to is not.
    assert_eq!(status("link"), (403, 200));
    assert_eq!(["fifo", "disk", "/dev/kmsg"].map(status), [(400, 400); 3]);
    assert_eq!(status("/proc/1/mem").0, 403);
    let write = |path: &str| sandbox.post(path, "user", "", b"x").0;
    let statuses = ["own", "shown", "/root/secret", "link", "fifo", "disk"].map(write);
    assert_eq!(statuses, [200, 403, 403, 403, 400, 400]);
    assert!(sandbox.get("/root/secret", "root").1.ends_with("secret\n"));

    // 64 MiB from 64 KiB, into a file system with 16.
    let mount = "mkdir /small && mount -t tmpfs -o size=16m,mode=777 small /small";
    runner.succeed(&["exec", &named, "--", "sh", "-c", mount]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let (status, text) = sandbox.post("/small/bomb", "user", "Content-Encoding: gzip\r\n", &bomb);
    assert_eq!(status, 507, "{text}");
    assert!(text.contains("not enough disk space available"), "{text}");
    assert_eq!(sandbox.post("own", "user", "", b"new").0, 200);
    server.end();
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_pause_or_a_kill_ends_what_is_under_way() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    let sandbox = Sandbox::create(&server);
    sandbox.shell("head -c 50000000 /dev/zero >/home/user/large");
    let octets = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n";
    let pty = json!({"process": {"cmd": "sh"}, "pty": {"size": {"cols": 80, "rows": 24}}});
    let ends: [&dyn Fn() -> u16; 2] =
        [&|| server.call("POST", &sandbox.path("/pause"), &Value::Null).0, &|| {
            server.call("DELETE", &sandbox.path(""), &Value::Null).0
        }];

    for end in ends {
        let upload = sandbox.begin("POST /files?path=up", octets, b"3\r\nabc\r\n");
        let mut download = sandbox.begin("GET /files?path=large", "", b"");
        download.read_exact(&mut [0; 100_000]).unwrap();
        let mut terminal = sandbox.start(&pty);
        // The upload's program runs by now.
        while !sandbox.get("up", "user").1.ends_with("abc") {}

        assert_eq!(end(), 204);

        let (status, text) = reply(upload);
        assert_eq!(status, 502, "{text}");
        let mut rest = Vec::new();
        assert!(download.read_to_end(&mut rest).is_err() || rest.len() < 49_000_000);
        let mut rest = String::new();
        let _ = terminal.read_to_string(&mut rest);
        assert!(!rest.ends_with("0\r\n\r\n"), "{rest}");
        let path = format!("/v2{}", sandbox.path("/connect"));
        server.call("POST", &path, &json!({"timeout": 60}));
    }
    assert_eq!(runner.vms(), Vec::<String>::new());
    server.end();
    runner.assert_nothing_left(&before);
}

/// How many descriptors and threads a process has.
fn open(pid: u32) -> (usize, usize) {
    let count = |folder: &str| {
        std::fs::read_dir(PathBuf::from(format!("/proc/{pid}/{folder}"))).unwrap().count()
    };
    (count("fd"), count("task"))
}

#[test]
#[ignore = "needs root and QEMU"]
fn nothing_is_left_of_sandboxes_whose_clients_are_killed_at_random() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    // With what is made only once, and the largest number at a time.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let sandbox = Sandbox::create(&server);
                assert_eq!(server.call("DELETE", &sandbox.path(""), &Value::Null).0, 204);
            });
        }
    });
    let idle = open(server.pid());
    let seed = base::random::bytes::<1>().unwrap()[0];
    println!("seed: {seed}");

    std::thread::scope(|scope| {
        for client in 0..2 {
            let server = &server;
            scope.spawn(move || (0..4).for_each(|round| vanish(server, seed, 2 * round + client)));
        }
    });

    // Connections and networks are closed in the background.
    let is_idle = |now: (usize, usize)| now.0 <= idle.0 && now.1 <= idle.1;
    while !runner.vms().is_empty() || !is_idle(open(server.pid())) {
        std::thread::yield_now();
    }
    server.end();
    runner.assert_nothing_left(&before);
}

/// A client that vanishes in its creation, in an upload, in a command, or in its kill.
fn vanish(server: &SandboxServer, seed: u8, round: u8) {
    let create = |body: &Value| {
        let body = body.to_string();
        let mut stream = TcpStream::connect(server.address).unwrap();
        let (key, length) = (&server.key, body.len());
        write!(
            stream,
            "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
    };
    let moment = seed.wrapping_mul(round.wrapping_mul(2).wrapping_add(1)) % 4;
    if moment == 0 {
        // It ends at its time-out.
        return create(&json!({"templateID": "default", "timeout": 1}));
    }
    let sandbox = Sandbox::create(server);
    if moment == 1 {
        let octets = "Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n";
        sandbox.begin("POST /files?path=a", octets, &[7; 500_000]);
    }
    if moment == 2 {
        sandbox.start(&json!({"process": {"cmd": "sleep", "args": ["1000"]}}));
    }
    let mut stream = TcpStream::connect(server.address).unwrap();
    let (key, path) = (&server.key, sandbox.path(""));
    let head = format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_next_server_reclaims_the_sandboxes_of_a_killed_one() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    let running = Sandbox::create(&server);
    let _stream = running.start(&json!({"process": {"cmd": "sleep", "args": ["1000"]}}));
    let paused = Sandbox::create(&server);
    assert_eq!(server.call("POST", &paused.path("/pause"), &Value::Null).0, 204);
    let ids = [running.id, paused.id].map(|id| format!("/sandboxes/{id}"));
    server.kill();
    assert_eq!(runner.vms().len(), 2);

    let server = SandboxServer::start(&runner);

    let known = ids.map(|path| server.call("GET", &path, &Value::Null).0);
    assert_eq!(known, [404, 404]);
    let sandbox = Sandbox::create(&server);
    assert_eq!(sandbox.post("a", "user", "", b"x").0, 200);
    server.end();
    runner.assert_nothing_left(&before);
}
