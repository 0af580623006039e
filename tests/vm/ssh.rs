//! SSH clients and VMs.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::runner::{Runner, text};

/// The configuration of `runner ssh-config`, and what uses it.
struct Ssh {
    folder: TempDir,
    config: PathBuf,
    runtime: PathBuf,
}

impl Ssh {
    fn new(runner: &Runner) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        fs::write(&config, runner.succeed(&["ssh-config"])).unwrap();
        Self { folder, config, runtime: runner.state().join("run") }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(&self.config).env("RUNNER_RUNTIME_DIR", &self.runtime);
        command.stdin(Stdio::null());
        command
    }

    fn ssh(&self, arguments: &[&str]) -> Output {
        self.command("ssh").args(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        checked(&self.ssh(arguments))
    }
}

fn checked(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

#[test]
#[ignore = "needs root and QEMU"]
fn ssh_scp_sftp_and_rsync_reach_a_vm_without_a_network() {
    let runner = Runner::new();
    let image = ["--image", "base", "--network", "none"];
    runner
        .succeed(&[&["run", "-d", "--name", "web"], &image[..], &["--", "sleep", "1000"]].concat());
    let ssh = Ssh::new(&runner);
    let (file, back) = (ssh.folder.path().join("file"), ssh.folder.path().join("back"));
    fs::write(&file, vec![7; 1 << 20]).unwrap();

    assert_eq!(ssh.succeed(&["web.vm", "id -un; pwd"]), "user\n/home/user\n");
    assert_eq!(ssh.ssh(&["root@web.vm", "exit 7"]).status.code(), Some(7));
    checked(&ssh.command("scp").arg("-q").arg(&file).arg("web.vm:by-scp").output().unwrap());
    let mut sftp = ssh.command("sftp");
    let mut sftp = sftp.args(["-q", "-b", "-", "web.vm"]).stdin(Stdio::piped()).spawn().unwrap();
    let get = format!("get by-scp {}\n", back.display());
    sftp.stdin.take().unwrap().write_all(get.as_bytes()).unwrap();
    assert!(sftp.wait().unwrap().success());
    assert!(fs::read(&file).unwrap() == fs::read(&back).unwrap());
    let shell = format!("ssh -F {}", ssh.config.display());
    let rsync = Command::new("rsync")
        .args(["-a", "-e", &shell])
        .arg(&file)
        .arg("web.vm:by-rsync")
        .env("RUNNER_RUNTIME_DIR", &ssh.runtime)
        .output();
    checked(&rsync.unwrap());
    assert_eq!(ssh.succeed(&["web.vm", "cmp by-scp by-rsync && echo same"]), "same\n");
    runner.succeed(&["stop", "--timeout", "1s", "web"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_process_that_an_ssh_session_leaves_running_survives_it() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "web", "--image", "base", "--", "sleep", "1000"]);
    let ssh = Ssh::new(&runner);

    ssh.succeed(&["web.vm", "nohup sleep 777 > /dev/null 2>&1 &"]);

    let found = runner.succeed(&["exec", "web", "--", "pgrep", "-fx", "sleep 777"]);
    assert_eq!(found.lines().count(), 1);
    let servers = runner.run(&["exec", "web", "--", "pgrep", "-x", "sshd"]);
    assert_eq!(servers.status.code(), Some(1), "{}", text(&servers.stdout));
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_forwarded_port_reaches_what_listens_in_the_vm() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "web", "--image", "base", "--", "sleep", "1000"]);
    let ssh = Ssh::new(&runner);
    let serve = "echo hello > /tmp/hello; cd /tmp; nohup python3 -m http.server 8000 --bind 127.0.0.1 \
                 > /tmp/log 2>&1 & while ! curl -s -o /tmp/null localhost:8000; do sleep 0.1; done";
    ssh.succeed(&["web.vm", serve]);

    let mut client = ssh.command("ssh");
    let client = client.args(["-W", "127.0.0.1:8000", "web.vm"]).stdin(Stdio::piped());
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(b"GET /hello HTTP/1.0\r\n\r\n").unwrap();
    let output = client.wait_with_output().unwrap();

    assert!(text(&output.stdout).ends_with("\r\n\r\nhello\n"), "{}", text(&output.stdout));
}

#[test]
#[ignore = "needs root and QEMU"]
fn each_vm_has_a_host_key_of_its_own_and_another_is_refused() {
    let runner = Runner::new();
    for name in ["one", "two"] {
        runner.succeed(&["run", "-d", "--name", name, "--image", "base", "--", "sleep", "1000"]);
    }
    let ssh = Ssh::new(&runner);
    let key = |host| runner.succeed(&["ssh-host-key", host]).replace(host, "");
    assert_ne!(key("one.vm"), key("two.vm"));

    // The key of the other VM, as if the connection had been led astray.
    let known = ssh.folder.path().join("known_hosts");
    fs::write(&known, format!("two.vm{}", key("one.vm"))).unwrap();
    let file = format!("UserKnownHostsFile={}", known.display());
    let refused = ssh.ssh(&["-o", "KnownHostsCommand=none", "-o", &file, "two.vm", "true"]);

    assert_eq!(refused.status.code(), Some(255));
    let said = text(&refused.stderr);
    assert!(said.contains("Host key verification failed"), "{said}");
    ssh.succeed(&["two.vm", "true"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_vm_without_an_ssh_server_says_what_to_do() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "plain", "--", "sleep", "1000"]);

    let output = Ssh::new(&runner).ssh(&["plain.vm", "true"]);

    assert_eq!(output.status.code(), Some(255));
    let said = text(&output.stderr);
    assert!(said.contains("the VM has no SSH server: use the image `base`"), "{said}");
}
