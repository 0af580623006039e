//! A registry of scripted sandboxes, and clients of both transports.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::event::Event;
use files_proto::PROGRAM;
use sandbox::fake::Script;
use sandbox_api::fake::FakeLauncher;
use sandbox_api::{Launcher, Sandboxes, Settings, SystemClock, Template};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::options::Options;
use crate::server::Server;

/// Sandboxes in which guest-files has a home on this host.
pub(crate) struct World {
    pub(crate) home: TempDir,
    pub(crate) launcher: Arc<FakeLauncher>,
    pub(crate) sandboxes: Arc<Sandboxes>,
}

impl World {
    pub(crate) fn new(script: Script) -> Self {
        let home = tempfile::tempdir().unwrap();
        let text = home.path().to_str().unwrap().to_owned();
        let script = script.answer(PROGRAM, move |_, request| {
            let mut input: File = tempfile::tempfile().unwrap();
            input.write_all(request).unwrap();
            input.rewind().unwrap();
            let mut output = Vec::new();
            let success = guest_files::run(input, &text, &mut output).unwrap();
            (output, u8::from(!success))
        });
        let named =
            |name: &str| Template { name: name.to_owned(), vcpus: 1, ..Template::default() };
        let launcher = FakeLauncher::with_templates(script, vec![named("base"), named("other")]);
        let shared = Arc::clone(&launcher) as Arc<dyn Launcher>;
        let sandboxes =
            Sandboxes::start(shared, Settings::default(), Arc::new(SystemClock)).unwrap();
        Self { home, launcher, sandboxes: Arc::new(sandboxes) }
    }

    /// Leaves a file that the scripted sandbox reads and guest-files describes.
    pub(crate) fn file(&self, name: &str, content: &[u8]) {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        self.launcher.factory.record().files.insert(path, content.to_vec());
    }
}

/// A client of a server over two pipes.
pub(crate) struct Client {
    pub(crate) world: World,
    input: UnixStream,
    output: BufReader<UnixStream>,
    pub(crate) stop: Arc<Event>,
    server: Option<JoinHandle<()>>,
}

impl Client {
    pub(crate) fn start(script: Script) -> Self {
        Self::with(script, Options::default())
    }

    /// A client whose session is initialized.
    pub(crate) fn ready(script: Script) -> Self {
        let mut client = Self::start(script);
        client.initialize();
        client
    }

    pub(crate) fn with(script: Script, options: Options) -> Self {
        let world = World::new(script);
        let server = Server::local(Arc::clone(&world.sandboxes), options);
        let (input, theirs) = UnixStream::pair().unwrap();
        let (output, written) = UnixStream::pair().unwrap();
        let stop = Arc::new(Event::new().unwrap());
        let stopped = Arc::clone(&stop);
        let server = std::thread::Builder::new()
            .spawn(move || crate::serve(server, theirs, written, &stopped).unwrap())
            .unwrap();
        let output = BufReader::new(output);
        Self { world, input, output, stop, server: Some(server) }
    }

    pub(crate) fn initialize(&mut self) -> Value {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        });
        let reply = self.request("initialize", &params);
        self.notify("notifications/initialized", &json!({}));
        reply
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
        self.input.write_all(b"\n").unwrap();
    }

    pub(crate) fn notify(&mut self, method: &str, params: &Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.send(message.to_string().as_bytes());
    }

    pub(crate) fn ask(&mut self, id: &Value, method: &str, params: &Value) {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(message.to_string().as_bytes());
    }

    /// The next message from the server; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Sends a request and returns its reply, which is the next message.
    pub(crate) fn request(&mut self, method: &str, params: &Value) -> Value {
        self.ask(&json!(1), method, params);
        let reply = self.next().unwrap();
        assert_eq!(reply["id"], 1, "{reply}");
        reply
    }

    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let mut reply = self.request("tools/call", &json!({"name": tool, "arguments": arguments}));
        assert_eq!(reply["error"], Value::Null);
        reply["result"].take()
    }

    /// The text of a result that is no error.
    pub(crate) fn text(&mut self, tool: &str, arguments: &Value) -> String {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], false, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// The text of a result that is an error.
    pub(crate) fn fail(&mut self, tool: &str, arguments: &Value) -> String {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Ends the input, and waits for the server's end.
    pub(crate) fn close(&mut self) {
        self.input.shutdown(Shutdown::Write).unwrap();
        self.join();
    }

    pub(crate) fn join(&mut self) {
        self.server.take().unwrap().join().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(server) = self.server.take() {
            let ended = server.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}
