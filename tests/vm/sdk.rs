//! E2B's Python SDK, unchanged, against `runner sandbox serve`: the tests in `tests/sdk`.

use std::path::Path;
use std::process::Command;

use crate::host::Host;
use crate::runner::{Runner, text};
use crate::sandboxes::SandboxServer;

/// Where `scripts/test` installs the SDK and pytest.
const PYTHON: &str = "/usr/local/lib/sandbox-runner/sdk/bin/python";

#[test]
#[ignore = "needs root, QEMU and the image `base`"]
fn programs_with_the_python_sdk_use_sandboxes() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let server = SandboxServer::start(&runner);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sdk");
    let mut command = Command::new(PYTHON);
    command.args(["-B", "-m", "pytest", "--tb=short"]).arg(&tests);
    let url = format!("http://{}", server.address);
    command.env("E2B_API_URL", &url).env("E2B_SANDBOX_URL", &url);
    command.env("E2B_API_KEY", &server.key).env_remove("E2B_DEBUG");

    let output = command.output().unwrap();

    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    server.end();
    runner.assert_nothing_left(&before);
}
