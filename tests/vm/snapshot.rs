//! VMs that go on from a saved one. They need Firecracker and KVM; `tests/vm/lab` brings both.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use netns::testing::INTERNET;

use crate::host::{Host, names};
use crate::runner::{Runner, text};

/// Small, so that all of it is soon saved.
const SIZE: [&str; 2] = ["--memory", "256"];

/// A runner with a snapshot. Without Firecracker or KVM the calling test is reported as skipped.
pub(crate) fn with_snapshot(more: &[&str]) -> Option<Runner> {
    let runner = Runner::new();
    let arguments = ["image", "snapshot", "default", "--vmm", "firecracker", "--memory", "256"];
    let output = runner.run(&[&arguments[..], more].concat());
    let errors = text(&output.stderr);
    if errors.contains("Firecracker is not found") || errors.contains("Firecracker needs KVM") {
        host_test::skip(errors);
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(runner)
}

/// Runs a script in a VM; returns what it printed, and what the runner remarked.
fn run(runner: &Runner, more: &[&str], script: &str) -> (String, String) {
    let arguments = [&["run", "--stats"], &SIZE[..], more, &["--", "bash", "-c", script]].concat();
    let output = runner.run(&arguments);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    (text(&output.stdout), errors)
}

fn is_restored(remarks: &str) -> bool {
    remarks.lines().any(|line| line.starts_with("reconnect"))
}

/// The folder of the only snapshot.
fn folder(runner: &Runner) -> PathBuf {
    let all = runner.state().join("snapshots");
    let name = names(&all).into_iter().find(|name| !name.starts_with('.')).unwrap();
    all.join(name)
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn each_vm_of_a_snapshot_has_its_own_identity() {
    let Some(runner) = with_snapshot(&["--network", "none", "--warm", "touch", "/warm"]) else {
        return;
    };
    let before = Host::look(runner.state());
    let script = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | base64; \
        cat /proc/sys/kernel/random/uuid; ls /warm; echo $(($(date +%s) - EPOCH))";
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let more = ["--network", "none", "--env", &format!("EPOCH={now}")];
        let (printed, remarks) = run(&runner, &more, script);
        assert!(is_restored(&remarks), "{remarks}");
        let lines: Vec<_> = printed.lines().map(str::to_owned).collect();
        assert_eq!(lines[4], "/warm");
        assert!(lines[5].parse::<u32>().unwrap() < 60, "{printed}");
        seen.extend(lines.into_iter().take(4));
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_restored_vm_has_a_working_network() {
    let Some(runner) = with_snapshot(&[]) else { return };
    let listener = runner.world.on_the_internet(|| TcpListener::bind((INTERNET, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let greet = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = [0; 3];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(b"hello\n").unwrap();
    };
    std::thread::Builder::new().name("greet".into()).spawn(greet).unwrap();
    let script = format!("exec 3<>/dev/tcp/{INTERNET}/{port} && echo hi >&3 && cat <&3");
    let (printed, remarks) = run(&runner, &[], &script);
    assert!(is_restored(&remarks), "{remarks}");
    assert_eq!(printed, "hello\n");
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_snapshot_is_used_only_for_vms_of_the_same_kind() {
    let Some(runner) = with_snapshot(&["--network", "none"]) else { return };
    let (_, remarks) = run(&runner, &[], "true");
    assert!(!is_restored(&remarks), "{remarks}");
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_truncated_snapshot_is_quarantined_and_the_vm_boots() {
    let Some(runner) = with_snapshot(&["--network", "none"]) else { return };
    let folder = folder(&runner);
    fs::OpenOptions::new()
        .write(true)
        .open(folder.join("memory"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let (_, remarks) = run(&runner, &["--network", "none"], "true");
    assert!(!is_restored(&remarks) && remarks.contains("quarantined"), "{remarks}");
    assert!(!folder.exists());
    assert!(runner.succeed(&["gc"]).is_empty());
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_snapshot_with_a_flipped_byte_in_its_memory_is_quarantined_and_the_vm_boots() {
    let Some(runner) = with_snapshot(&["--network", "none"]) else { return };
    let path = folder(&runner).join("memory");
    let memory = fs::File::options().read(true).write(true).open(path).unwrap();
    let at = memory.metadata().unwrap().len() / 2;
    let mut byte = [0];
    memory.read_exact_at(&mut byte, at).unwrap();
    memory.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let (_, remarks) = run(&runner, &["--network", "none"], "true");
    assert!(!is_restored(&remarks) && remarks.contains("`memory` is damaged"), "{remarks}");
    let (_, remarks) = run(&runner, &["--network", "none"], "true");
    assert!(!remarks.contains("quarantined"), "{remarks}");
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_snapshot_that_the_monitor_refuses_is_quarantined_and_the_vm_boots() {
    let Some(runner) = with_snapshot(&["--network", "none"]) else { return };
    let before = Host::look(runner.state());
    // From here on its digests are not looked at.
    let (_, remarks) = run(&runner, &["--network", "none"], "true");
    assert!(is_restored(&remarks), "{remarks}");
    let state = folder(&runner).join("state");
    let mut bytes = fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&state).unwrap();
    fs::write(&state, bytes).unwrap();
    let (_, remarks) = run(&runner, &["--network", "none"], "true");
    assert!(!is_restored(&remarks) && remarks.contains("so the vm boots"), "{remarks}");
    runner.assert_nothing_left(&before);
    let (_, remarks) = run(&runner, &["--network", "none"], "true");
    assert!(!remarks.contains("quarantined"), "{remarks}");
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_failed_warm_up_saves_no_snapshot() {
    let Some(runner) = with_snapshot(&["--network", "none"]) else { return };
    fs::remove_dir_all(folder(&runner)).unwrap();
    let before = Host::look(runner.state());
    let output =
        runner.run(&["image", "snapshot", "default", "--memory", "256", "--warm", "false"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing is saved"), "{}", text(&output.stderr));
    let all = names(&runner.state().join("snapshots"));
    assert!(all.iter().all(|name| name == ".lock"), "{all:?}");
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_snapshot_of_a_removed_image_is_removed() {
    let Some(runner) = with_snapshot(&["--network", "none"]) else { return };
    let marker = folder(&runner).join("snapshot.json");
    let json = fs::read_to_string(&marker).unwrap().replace("vmlinux", "vmlinux-of-before");
    fs::write(&marker, json).unwrap();
    let name = folder(&runner).file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(runner.succeed(&["gc"]).trim_end(), name);
    assert!(!runner.state().join("snapshots").join(name).exists());
}
