//! Agents' clients, unchanged: the MCP client of PyPI (the tests in `tests/mcp`), and Claude Code.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::host::Host;
use crate::model::{Model, say, tool};
use crate::runner::{Runner, text};
use crate::sandboxes::SandboxServer;

/// Where `scripts/test` installs the client and pytest.
const PYTHON: &str = "/usr/local/lib/sandbox-runner/sdk/bin/python";

/// Where `scripts/test` installs Claude Code.
const CLAUDE: &str = "/usr/local/lib/sandbox-runner/claude/claude";

/// What starts the server.
fn argv(runner: &Runner) -> Vec<String> {
    let command = runner.command(&["mcp"]);
    let arguments = command.get_args().map(|one| one.to_str().unwrap().to_owned());
    [env!("CARGO_BIN_EXE_runner").to_owned()].into_iter().chain(arguments).collect()
}

/// The variable that keeps a test's networks apart.
fn runtime(runner: &Runner) -> (String, String) {
    let folder = runner.state().join("run");
    ("RUNNER_RUNTIME_DIR".to_owned(), folder.to_str().unwrap().to_owned())
}

#[test]
#[ignore = "needs root, QEMU and the image `base`"]
fn agents_with_the_python_client_use_sandboxes() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/mcp");
    let (name, value) = runtime(&runner);
    let start = json!({"argv": argv(&runner), "env": {name: value}});
    let mut command = Command::new(PYTHON);
    command.args(["-B", "-m", "pytest", "--tb=short"]).arg(&tests);
    command.env("MCP_COMMAND", start.to_string()).env("MCP_KEY", &server.key);
    command.env("MCP_URL", format!("http://{}/mcp", server.address));

    let output = command.output().unwrap();

    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    server.end();
    runner.assert_nothing_left(&before);
}

/// `runner mcp`, spoken to by hand.
struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(runner: &Runner) -> Self {
        let mut command = runner.command(&["mcp", "--network", "none", "--sandboxes", "1"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, stdin, stdout };
        let params = json!({"protocolVersion": "2025-11-25"});
        assert!(server.ask("initialize", &params)["result"].is_object());
        server
    }

    fn send(&mut self, method: &str, params: &Value) {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        writeln!(self.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.send(method, params);
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect(&line)
    }

    /// Has a command start that does not end.
    fn begin(&mut self, runner: &Runner) {
        let run = |line: &str| json!({"name": "run_command", "arguments": {"command": line}});
        let reply = self.ask("tools/call", &run("hostname"));
        assert_eq!(reply["result"]["isError"], false, "{reply}");
        self.send("tools/call", &run("sleep 1000"));
        assert_eq!(runner.vms().len(), 1);
    }
}

#[test]
#[ignore = "needs root, QEMU and the image `base`"]
fn a_server_that_is_left_or_stopped_ends_its_sandboxes() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let mut left = Server::start(&runner);
    left.begin(&runner);
    drop(left.stdin.take());
    assert!(left.child.wait().unwrap().success());
    runner.assert_nothing_left(&before);

    let mut stopped = Server::start(&runner);
    stopped.begin(&runner);
    let pid = nix::unistd::Pid::from_raw(stopped.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(stopped.child.wait().unwrap().success());
    runner.assert_nothing_left(&before);
}

/// Claude Code with a home of its own.
struct Claude<'a> {
    runner: &'a Runner,
    home: PathBuf,
}

impl<'a> Claude<'a> {
    fn new(runner: &'a Runner) -> Self {
        let home = runner.state().join("home");
        std::fs::create_dir(&home).unwrap();
        Self { runner, home }
    }

    fn run(&self, arguments: &[&str], env: &[(String, String)]) -> String {
        let mut command = Command::new(CLAUDE);
        command.args(arguments).current_dir(&self.home).env_clear();
        command.env("HOME", &self.home).env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1");
        command.env("ANTHROPIC_API_KEY", "sk-ant-scripted");
        let (name, value) = runtime(self.runner);
        command.env(name, value).envs(env.iter().cloned()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}: {stdout}{stderr}", output.status);
        stdout
    }
}

#[test]
#[ignore = "needs root, QEMU, the image `base` and Claude Code"]
fn claude_code_adds_the_server_and_calls_its_tools() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let claude = Claude::new(&runner);
    let argv = argv(&runner);
    let add = ["mcp", "add", "sandbox", "--"].map(str::to_owned);
    let add: Vec<_> = add.iter().chain(&argv).map(String::as_str).collect();

    claude.run(&add, &[]);

    let listed = claude.run(&["mcp", "list"], &[]);
    assert!(listed.contains("sandbox: ") && listed.contains("Connected"), "{listed}");
    let shown = claude.run(&["mcp", "get", "sandbox"], &[]);
    assert!(shown.contains("Connected"), "{shown}");

    // Its model calls a tool.
    let input = json!({"command": "echo \"it is $((6*7))\"; hostname"});
    let script = vec![vec![tool("mcp__sandbox__run_command", input)], vec![say("all done")]];
    let model = Model::serve(&runner.world, script);
    let flags = ["--print", "say it", "--allowedTools", "mcp__sandbox__run_command"];
    let said = claude.run(&flags, &[model.pair()]);

    assert_eq!(said, "all done\n");
    let questions = model.questions();
    let messages = questions.last().unwrap().body["messages"].to_string();
    assert!(messages.contains("it is 42\\nsandbox-"), "{messages}");
    runner.assert_nothing_left(&before);
}
