//! What programs do with sandboxes: files and ports, through another process's VM.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sandbox::{Event, ExecRequest, Sandbox, Stream, User};
use sandbox_api::files::{
    Code, EventKind, Files, Kind, Range, Watch, WatchItem, WatchScope, WriteOptions,
};
use sandbox_api::{Keys, NewKey};
use serde_json::{Value, json};

use crate::host::Host;
use crate::runner::{Runner, Running};

/// Above what anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

fn soon() -> Instant {
    Instant::now() + TIMEOUT
}

/// The VM of this name, which a runner started.
fn attach(runner: &Runner, name: &str, reactor: &vsock_host::Reactor) -> Box<dyn Sandbox> {
    let record = microvm::find(runner.state(), name).unwrap();
    microvm::attach(&record, reactor, soon()).unwrap()
}

/// Kinds and names of all changes so far.
fn changes(watch: &mut Watch) -> Vec<(EventKind, String)> {
    watch.handle().request_sync(soon()).unwrap();
    let mut changes = Vec::new();
    while let WatchItem::Event(event) = watch.next(Some(soon())).unwrap() {
        changes.push((event.kind, event.name));
    }
    changes
}

#[test]
#[ignore = "needs root and QEMU"]
fn files() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "files"]);
    let reactor = vsock_host::Reactor::start().unwrap();
    let sandbox = attach(&runner, "files", &reactor);
    let user = || Some(User::Name("user".into()));
    let files = Files::new(&*sandbox, user());
    let shell = |script: &str| runner.succeed(&["exec", "files", "--", "sh", "-c", script]);

    // Folders and files belong to the user.
    let (folder, is_new) = files.make_dir("work/below", soon()).unwrap();
    assert!(is_new);
    assert_eq!((folder.path.as_str(), folder.kind), ("/home/user/work/below", Kind::Dir));
    assert_eq!((folder.owner.as_str(), folder.group.as_str()), ("user", "user"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let attributes = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
    let options =
        WriteOptions { attributes: Some(("a.".to_owned(), attributes)), ..Default::default() };
    let written = files.write_file("new/deep/é.bin", &mut &content[..], &options).unwrap();
    assert_eq!((written.path.as_str(), written.size), ("/home/user/new/deep/é.bin", 3_000_000));
    let entry = files.stat("~/new/deep/é.bin", soon()).unwrap();
    assert_eq!((entry.size, entry.permissions.as_str()), (3_000_000, "-rw-r--r--"));
    assert_eq!((entry.owner.as_str(), entry.attributes["a.key"].as_str()), ("user", "value"));
    assert_eq!(shell("stat -c %U /home/user/new/deep"), "user\n");

    // They come back as they were, in whole and in part.
    let read = |path: &str, range: Range| {
        let mut bytes = Vec::new();
        files.read_file(path, range, TIMEOUT).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert!(read("new/deep/é.bin", Range::default()) == content);
    let range = Range { offset: 1_000_000, length: Some(70_000) };
    assert!(read("new/deep/é.bin", range) == content[1_000_000..1_070_000]);
    let boot_id = read("/proc/sys/kernel/random/boot_id", Range::default());
    assert_eq!(boot_id.len(), 37, "a file of the kernel has no size");

    // The user's rights hold.
    for error in [
        files.make_dir("/etc/new", soon()).map(drop),
        files.remove("/etc/hostname", soon()),
        files.list("/root", 1, soon()).map(drop),
    ] {
        assert_eq!(error.unwrap_err().code(), Some(Code::PermissionDenied));
    }
    assert!(Files::new(&*sandbox, None).list("/root", 1, soon()).is_ok());

    // A watch reports changes of commands and of writes of ours.
    let scope = WatchScope { recursive: true, ..WatchScope::default() };
    let mut watch = files.watch("work", scope, soon()).unwrap();
    files.write_file("work/below/a", &mut &b"x"[..], &WriteOptions::default()).unwrap();
    let names = [EventKind::Create, EventKind::Chmod, EventKind::Write];
    assert_eq!(changes(&mut watch), names.map(|kind| (kind, "below/a".to_owned())));
    shell("cd /home/user/work && mv below/a b && rm b");
    let expected =
        [(EventKind::Rename, "below/a"), (EventKind::Create, "b"), (EventKind::Remove, "b")];
    assert_eq!(changes(&mut watch), expected.map(|(kind, name)| (kind, name.to_owned())));
    files.move_entry("work", "moved/here", soon()).unwrap();
    let error = watch.next(Some(soon())).unwrap_err();
    assert_eq!(error.code(), Some(Code::Gone), "{error}");

    // A removal ends at links.
    shell("ln -s /home/user/new /home/user/moved/link");
    files.remove("moved", soon()).unwrap();
    let listing = files.list("new", 2, soon()).unwrap();
    let names: Vec<_> = listing.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["deep", "é.bin"]);
    runner.succeed(&["stop", "files"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_port_of_an_attached_vm_is_connected_if_something_listens() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "ports"]);
    let reactor = vsock_host::Reactor::start().unwrap();
    let sandbox = attach(&runner, "ports", &reactor);
    // Answers a connection with what it got, reversed.
    let server = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0); \
        bind(S, sockaddr_in(8080, INADDR_LOOPBACK)); listen(S, 9); $| = 1; print qq(ready); \
        accept(C, S); local $/; print C scalar reverse <C>; close C";
    let argv = ["perl", "-e", server].map(Into::into).to_vec();
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let execution = sandbox.exec(&request, soon()).unwrap();
    let ready = execution.next(Some(soon())).unwrap();
    assert_eq!(ready, Event::Output(Stream::Stdout, b"ready".to_vec()));

    let mut stream = sandbox.connect(8080, soon()).unwrap();
    stream.write_all(b"drawer").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "reward");
    let error = sandbox.connect(9, soon()).unwrap_err();

    assert!(matches!(error, sandbox::Error::NothingListens { port: 9 }), "{error}");
    assert_eq!(error.to_string(), "nothing listens on port 9 of the sandbox");
    runner.succeed(&["stop", "ports"]);
    let error = sandbox.connect(9, soon()).unwrap_err();
    assert!(matches!(error, sandbox::Error::Connect { port: 9, .. }), "{error}");
}

/// The server of sandboxes, and a key for it.
pub(crate) struct SandboxServer {
    running: Running,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl SandboxServer {
    pub(crate) fn start(runner: &Runner) -> Self {
        Self::start_with(runner, &[])
    }

    /// With more arguments.
    pub(crate) fn start_with(runner: &Runner, arguments: &[&str]) -> Self {
        let listen = ["sandbox", "serve", "--listen", "127.0.0.1:0"];
        Self::of(runner, Running::of(runner.service(&[&listen, arguments].concat())))
    }

    /// The server that a process is.
    fn of(runner: &Runner, mut running: Running) -> Self {
        let (_, key) = Keys::new(runner.state()).create(NewKey::default()).unwrap();
        let mut line = String::new();
        running.stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("serves sandboxes at http://").expect(&line);
        Self { running, address: address.parse().unwrap(), key }
    }

    /// The status and the body of a reply.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let key = &self.key;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: sandboxes\r\nX-API-Key: {key}\r\nConnection: close\r\n"
        );
        let length = body.len();
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").expect(&reply);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) fn create(&self, body: &Value) -> String {
        self.create_with_token(body).0
    }

    /// The id and the token of a new sandbox.
    pub(crate) fn create_with_token(&self, body: &Value) -> (String, String) {
        let (status, sandbox) = self.call("POST", "/v2/sandboxes", body);
        assert_eq!(status, 201, "{sandbox}");
        let text = |name: &str| sandbox[name].as_str().unwrap().to_owned();
        (text("sandboxID"), text("envdAccessToken"))
    }

    /// Ends it by SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.running.signal(libc::SIGKILL);
        self.running.child.wait().unwrap();
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// Ends it by a signal.
    pub(crate) fn end(self) {
        self.running.signal(libc::SIGTERM);
        assert_eq!(self.running.finish().0, Some(0));
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn sandboxes_are_served_and_end_with_their_server() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    let none = Value::Null;
    let (status, error) = server.call("POST", "/v2/sandboxes", &json!({"templateID": "no"}));
    assert_eq!((status, &error["code"]), (404, &json!(404)), "{error}");

    let request = json!({"templateID": "default", "metadata": {"test": "serve"}});
    let (one, two) = (server.create(&request), server.create(&request));

    // It is a VM as any other.
    let name = format!("sandbox-{one}");
    assert_eq!(runner.succeed(&["exec", &name, "--", "hostname"]), format!("{name}\n"));
    let (_, sandboxes) = server.call("GET", "/v2/sandboxes?metadata=test%3Dserve", &none);
    assert_eq!(sandboxes.as_array().unwrap().len(), 2);
    assert_eq!(server.call("DELETE", &format!("/sandboxes/{one}"), &none).0, 204);
    assert_eq!(server.call("GET", &format!("/sandboxes/{one}"), &none).0, 404);
    assert_eq!(runner.vms().len(), 1);
    // A paused one runs again after it.
    let path = format!("/sandboxes/{two}");
    assert_eq!(server.call("POST", &format!("{path}/pause"), &none).0, 204);
    assert_eq!(server.call("GET", &path, &none).1["state"], "paused");
    let connect = json!({"timeout": 60});
    assert_eq!(server.call("POST", &format!("/v2{path}/connect"), &connect).0, 201);
    assert_eq!(server.call("GET", &path, &none).1["state"], "running");

    server.end();

    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_service_shares_its_vms_and_its_budget_with_sandboxes() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let config = runner.state().join("runner.toml");
    let text = "[runner]\ncpu_overcommit = 32.0\nmax_concurrent = 1\n\
        [sandboxes]\nlisten = [\"127.0.0.1:0\"]\nmax = 2\n\
        [profiles.default]\nmemory_mib = 256\nmock_claude = true\n";
    std::fs::write(&config, text).unwrap();
    let start = ["start", "--local", "--config", config.to_str().unwrap()];
    let server = SandboxServer::of(&runner, Running::ready(runner.service(&start)));
    let none = Value::Null;
    let sandbox = server.create(&json!({"templateID": "default"}));
    let (_, detail) = server.call("GET", &format!("/sandboxes/{sandbox}"), &none);
    assert_eq!(detail["memoryMB"], 256);
    let (status, error) = server.call("POST", "/v2/sandboxes", &json!({"templateID": "default"}));
    assert_eq!(status, 503, "{error}");

    // A job waits for the VM of the sandbox, and runs while the sandbox is paused.
    let job = runner.succeed(&["job", "submit", "--prompt", "exit 0"]);
    assert_eq!(server.call("POST", &format!("/sandboxes/{sandbox}/pause"), &none).0, 204);
    runner.succeed(&["job", "wait", job.trim_end()]);
    let connect = json!({"timeout": 60});
    let path = format!("/v2/sandboxes/{sandbox}/connect");
    // There is no room until the job's VM is gone, after the job.
    let mut statuses = std::iter::repeat_with(|| server.call("POST", &path, &connect).0);
    assert_eq!(statuses.find(|status| *status != 503), Some(201));

    server.end();

    runner.assert_nothing_left(&before);
}
