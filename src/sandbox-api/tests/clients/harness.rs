//! A server with scripted sandboxes, and what it has open.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::{Mutex, MutexGuard};
use files_proto::PROGRAM;
use http_server::{Endpoint, Limits as ServerLimits, Server};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sandbox::fake::{Factory, Manner, Script, config};
use sandbox::{Cancellation, ExecRequest, Network, SandboxConfig, SandboxFactory as _, SandboxId};
use sandbox_api::{
    Api, Keys, LaunchError, LaunchRequest, Launched, Launcher, Limits, NetworkRequest, NewKey,
    Reservation, Sandboxes, Settings, SystemClock, Template,
};
use serde_json::{Value, json};
use tempfile::TempDir;

static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) launcher: Arc<FakeLauncher>,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    _folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Sandboxes in which guest-files knows the user and fails at all else, programs run on, and port 80 is served.
pub(crate) fn script() -> Script {
    let files = |_: &ExecRequest, request: &[u8]| {
        let account = json!({"account": {"uid": 0, "gid": 0, "home": "/"}});
        if request.starts_with(b"{\"account") {
            return (format!("{account}\n{}\n", json!({"done": {}})).into_bytes(), 0);
        }
        let error = json!({"error": {"code": "internal", "message": "as it should"}});
        (format!("{error}\n").into_bytes(), 1)
    };
    let script = Script::default().answer(PROGRAM, files).listen(80);
    script.hold("sleep", Manner::Deaf).hold("cat", Manner::Deaf)
}

/// A sandbox, as its creator knows it.
pub(crate) struct Created {
    pub(crate) id: String,
    token: String,
}

impl Lab {
    pub(crate) fn new(script: Script) -> Self {
        let turn = TURN.lock();
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::new(folder.path()));
        let limits = Limits { sandboxes: Some(64), ..Limits::default() };
        let (_, key) = keys.create(NewKey { limits, ..NewKey::default() }).unwrap();
        let launcher = Arc::new(FakeLauncher { factory: script.factory(), ..Default::default() });
        let clock = Arc::new(SystemClock);
        let sandboxes =
            Sandboxes::start(launcher.clone(), Settings::default(), clock.clone()).unwrap();
        let sandboxes = Arc::new(sandboxes);
        let domain = Some("boxes.example".to_owned());
        let api = Api::new(Arc::clone(&sandboxes), keys, domain, clock);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // As the runner has it.
        let limits = ServerLimits { connections: 4096, ..ServerLimits::default() };
        let endpoints = vec![Endpoint::Tcp(listener)];
        let server = Server::start("lab", endpoints, Arc::new(api), limits).unwrap();
        Self { server, sandboxes, launcher, address, key, _folder: folder, _turn: turn }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// The bytes of a request whose connection is to be closed after the reply.
    pub(crate) fn rest(&self, line: &str, body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let (key, length) = (&self.key, body.len());
        format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Sends a request, and returns the status and the body of its reply.
    pub(crate) fn call(&self, request: &[u8]) -> (u16, Value) {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) fn create(&self) -> Created {
        let (status, reply) =
            self.call(&self.rest("POST /v2/sandboxes", &json!({"templateID": "base"})));
        assert_eq!(status, 201, "{reply}");
        Created::of(&reply)
    }

    pub(crate) fn kill(&self, sandbox: &Created) {
        let request = self.rest(&format!("DELETE /sandboxes/{}", sandbox.id), &Value::Null);
        assert_eq!(self.call(&request).0, 204);
    }

    /// The VM of the newest sandbox.
    pub(crate) fn vm(&self) -> SandboxId {
        *self.launcher.vms.lock().last().unwrap()
    }

    /// Waits until no more is open than there was, and no sandbox's command has a holder.
    pub(crate) fn wait_for(&self, before: &Open) {
        let vms = self.launcher.vms.lock().clone();
        while Open::look() != *before
            || vms.iter().any(|vm| self.launcher.factory.commands(*vm) > 0)
        {
            // A port without a server is closed.
            self.launcher.factory.record().connections.clear();
            std::thread::yield_now();
        }
    }
}

impl Created {
    pub(crate) fn of(reply: &Value) -> Self {
        let text = |name: &str| reply[name].as_str().unwrap().to_owned();
        Self { id: text("sandboxID"), token: text("envdAccessToken") }
    }

    fn headers(&self) -> String {
        format!("E2b-Sandbox-Id: {}\r\nX-Access-Token: {}\r\n", self.id, self.token)
    }

    /// The bytes of a call on it.
    pub(crate) fn request(&self, line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let (own, length) = (self.headers(), body.len());
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{own}{headers}\
             Content-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    pub(crate) fn unary(&self, method: &str, message: &Value) -> Vec<u8> {
        let headers = "Content-Type: application/json\r\nConnect-Timeout-Ms: 50\r\n";
        self.request(&format!("POST /{method}"), headers, message.to_string().as_bytes())
    }

    pub(crate) fn stream(&self, method: &str, message: &Value) -> Vec<u8> {
        let headers = "Content-Type: application/connect+json\r\n";
        let body = connect_rpc::message(message).unwrap();
        self.request(&format!("POST /{method}"), headers, &body)
    }

    pub(crate) fn start(&self, program: &str) -> Vec<u8> {
        self.stream("process.Process/Start", &json!({"process": {"cmd": program}}))
    }
}

/// The threads of the server and of processes, and the descriptors of this process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Open {
    connections: usize,
    processes: usize,
    descriptors: usize,
}

impl Open {
    pub(crate) fn look() -> Self {
        let names = |folder: &str| fs::read_dir(folder).unwrap().flatten();
        let comm = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        let threads: Vec<_> = names("/proc/self/task").filter_map(comm).collect();
        let count = |prefix: &str| threads.iter().filter(|name| name.starts_with(prefix)).count();
        Self {
            connections: count("lab-") - count("lab-accept"),
            processes: count("process-") + count("expire-"),
            descriptors: names("/proc/self/fd").count(),
        }
    }

    /// What is open when no more than these connections are served any more: one that was closed is served a
    /// little longer.
    pub(crate) fn with(connections: usize) -> Self {
        loop {
            let open = Self::look();
            if open.connections == connections {
                return open;
            }
            std::thread::yield_now();
        }
    }

    /// Whether there are neither connections nor processes.
    pub(crate) fn is_none(&self) -> bool {
        (self.connections, self.processes) == (0, 0)
    }
}

/// Reads until `text` has come.
pub(crate) fn until(stream: &mut TcpStream, text: &str) {
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !all.ends_with(text.as_bytes()) {
        stream.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }
}

#[derive(Default)]
pub(crate) struct FakeLauncher {
    pub(crate) factory: Factory,
    pub(crate) vms: Mutex<Vec<SandboxId>>,
    /// What sandboxes take of the host.
    pub(crate) reserved: Arc<()>,
}

impl Launcher for FakeLauncher {
    fn templates(&self) -> Vec<Template> {
        vec![Template {
            name: "base".to_owned(),
            aliases: Vec::new(),
            vcpus: 1,
            memory_mib: 256,
            disk_mib: 1024,
        }]
    }

    fn launch(
        &self,
        request: &LaunchRequest,
        cancellation: &Cancellation,
    ) -> Result<Launched, LaunchError> {
        let config = SandboxConfig { name: Some(request.name.clone()), ..config() };
        self.vms.lock().push(config.id);
        let sandbox = self.factory.start(&config, cancellation, Instant::now() + TIMEOUT);
        let sandbox = sandbox.map_err(|error| LaunchError::Failed(error.into()))?;
        Ok(Launched { sandbox, config, reservation: Box::new(Share(Arc::clone(&self.reserved))) })
    }

    fn network(
        &self,
        _config: &SandboxConfig,
        _request: &NetworkRequest,
    ) -> Result<Network, LaunchError> {
        Ok(Network::default())
    }
}

const TIMEOUT: Duration = Duration::from_secs(60);

struct Share(#[expect(dead_code, reason = "its count is what is looked at")] Arc<()>);

impl Reservation for Share {
    fn resume(&mut self) -> Result<(), LaunchError> {
        Ok(())
    }
}
