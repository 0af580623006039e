//! E2B's SDKs and code interpreter, unchanged, against `runner sandbox serve`: the tests in `tests/sdk`.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use netns::testing::INTERNET;

use crate::host::Host;
use crate::internet::Names;
use crate::network::greet;
use crate::runner::{Runner, text};
use crate::sandboxes::SandboxServer;

/// Where `scripts/test` installs the SDK and pytest.
const PYTHON: &str = "/usr/local/lib/sandbox-runner/sdk/bin/python";

/// Where `scripts/test` installs the SDK and Node.js.
const NODE_MODULES: &str = "/usr/local/lib/sandbox-runner/sdk-js/node_modules";

/// The template that E2B's code interpreter asks for.
const CONFIG: &str = "[profiles.base]\nimage = \"base\"\n\
    [profiles.code-interpreter-v1]\nimage = \"base\"\n";

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sdk")
}

/// Runs tests that find the server by the environment alone.
fn pass(mut command: Command) {
    let runner = Runner::new();
    runner.world.set_hosts(runner.state(), &[("localhost", Ipv4Addr::LOCALHOST)]);
    let before = Host::look(runner.state());
    let config = runner.state().join("runner.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let server = SandboxServer::start_with(
        &runner,
        &["--config", config.to_str().unwrap(), "--domain", "sandboxes.test"],
    );
    let internet = format!("{INTERNET}:{}", greet(&runner, INTERNET));
    let _names = Names::serve(&runner);
    let url = format!("http://{}", server.address);
    command.env("E2B_API_URL", &url).env("E2B_SANDBOX_URL", &url).env("INTERNET", internet);
    command.env("E2B_API_KEY", &server.key).env_remove("E2B_DEBUG").env_remove("E2B_DOMAIN");

    let output = command.output().unwrap();

    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    server.end();
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, QEMU and the image `base`"]
fn programs_with_the_python_sdk_use_sandboxes() {
    let mut command = Command::new(PYTHON);
    command.args(["-B", "-m", "pytest", "--tb=short"]).arg(tests().join("python"));
    pass(command);
}

#[test]
#[ignore = "needs root, QEMU and the image `base`"]
fn programs_with_the_javascript_sdk_use_sandboxes() {
    // Node.js looks for packages beside the program only.
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(tests()).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let programs = folder.path().join("sdk/javascript");
    symlink(NODE_MODULES, programs.join("node_modules")).unwrap();
    let mut command = Command::new(Path::new(NODE_MODULES).join(".bin/node"));
    command.args(["--test", "--test-isolation=none"]).current_dir(programs);
    pass(command);
}
