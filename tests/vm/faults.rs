//! What a user sees when a VM breaks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::host::{Host, names};
use crate::runner::{Runner, text};

/// The processes of the only VM: its monitor, and what that needs.
pub(crate) fn members(runner: &Runner) -> Vec<i32> {
    let id = runner.vms().pop().unwrap();
    let cgroup = process::mount_point().unwrap().join("sandbox-runner").join(id);
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    // KVM's own threads are there, too, and have no command line.
    let is_program = |pid: &&str| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
    };
    pids.lines().filter(is_program).map(|pid| pid.parse().unwrap()).collect()
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Kills one process of a VM, and returns how many it had.
fn kill_member(which: usize) -> usize {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let mut running = runner.start(&["run", "--", "sh", "-c", "echo ready; sleep 1000"]);
    running.wait_for_line("ready");
    let members = members(&runner);
    kill(members[which]);
    let (code, _, errors) = running.finish();
    assert_eq!(code, Some(125), "{errors}");
    assert!(errors.contains("was killed by signal 9"), "{errors}");
    runner.assert_nothing_left(&before);
    members.len()
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_killed_monitor_ends_the_command_with_its_reason() {
    let count = kill_member(0);
    for which in 1..count {
        kill_member(which);
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_guest_that_powers_off_ends_the_run_with_a_reason() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let output = runner.run(&["run", "--", "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 1000"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("powered off"), "{}", text(&output.stderr));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_kernel_panic_for_want_of_memory_is_reported_as_such() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let script = "echo 1 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    let output = runner.run(&["run", "--memory", "192", "--", "sh", "-c", script]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("ran out of memory (192 MiB) and its kernel gave up"), "{errors}");
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_service_that_dies_is_started_again() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "box"]);
    let suicide = "kill -9 $(pgrep -f vsock-service)";
    assert!(!runner.run(&["exec", "box", "--", "bash", "-c", suicide]).status.success());
    let mut tries = 0;
    while runner.run(&["exec", "box", "--", "true"]).status.code() != Some(0) {
        tries += 1;
        assert!(tries < 50, "the service did not come back");
    }
    runner.succeed(&["stop", "box"]);
}

/// Has the runner find an image `broken`, like the default one but for one file.
fn break_image(runner: &Runner, file: &str, content: &[u8]) {
    let images = runner.state().join("images");
    let default = fs::canonicalize(images.join("default")).unwrap();
    let mine = runner.state().join("own-images");
    link_tree(&default, &mine.join("broken"), file, content);
    fs::remove_file(&images).unwrap();
    symlink(&mine, &images).unwrap();
}

/// Links what is in `source` to `target`, except for the file that gets other content.
fn link_tree(source: &Path, target: &Path, file: &str, content: &[u8]) {
    fs::create_dir_all(target).unwrap();
    for name in names(source) {
        let (from, to) = (source.join(&name), target.join(&name));
        if from.is_dir() {
            link_tree(&from, &to, file, content);
        } else if name == file {
            fs::write(&to, content).unwrap();
        } else {
            fs::hard_link(&from, &to).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_broken_root_file_system_is_reported_with_the_guests_message() {
    let runner = Runner::new();
    break_image(&runner, "rootfs.squashfs", &[0; 1 << 20]);
    let before = Host::look(runner.state());
    let output = runner.run(&["run", "--image", "broken", "--", "true"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(errors.contains("the guest cannot boot") && errors.contains("vda"), "{errors}");
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn an_invalid_kernel_is_reported_with_the_monitors_message() {
    let runner = Runner::new();
    break_image(&runner, "vmlinux", b"not a kernel");
    let before = Host::look(runner.state());
    let output = runner.run(&["run", "--image", "broken", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let errors = text(&output.stderr);
    assert!(errors.contains("qemu-system") || errors.contains("Firecracker"), "{errors}");
    runner.assert_nothing_left(&before);
}
