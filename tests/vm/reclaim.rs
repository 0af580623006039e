//! kill -9 at any moment, then a new start: nothing of the old one is left.

use std::io::Read;
use std::time::Duration;

use crate::host::Host;
use crate::runner::{Runner, Running};

/// Kills a runner `after` it was started, starts another one, and looks at what is left.
fn killed_after(after: Duration) {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let mut running = runner.start(&["run", "--", "sleep", "1000"]);
    wait(&mut running, after);
    running.signal(libc::SIGKILL);
    running.child.wait().unwrap();
    runner.succeed(&["gc"]);
    runner.assert_nothing_left(&before);
}

/// Until the time is over, or the child printed something, which it does not.
fn wait(running: &mut Running, time: Duration) {
    use std::os::fd::AsFd;
    let stdout = running.stdout.get_ref();
    let mut fds = [nix::poll::PollFd::new(stdout.as_fd(), nix::poll::PollFlags::POLLIN)];
    let timeout = u16::try_from(time.as_millis()).unwrap();
    if nix::poll::poll(&mut fds, timeout).unwrap() > 0 {
        let mut text = String::new();
        running.child.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
        panic!("it ended by itself: {text}");
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_next_runner_reclaims_everything_of_a_killed_one() {
    // While the folder, cgroup, disk and processes come; while the guest boots; while it runs.
    for after in [3, 8, 15, 25, 40, 70, 150, 600, 2500, 5000] {
        let jitter = u64::from(std::process::id() % 7);
        killed_after(Duration::from_millis(after + jitter));
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_next_start_reclaims_by_itself() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let mut running = runner.start(&["run", "--", "sh", "-c", "echo ready; sleep 1000"]);
    running.wait_for_line("ready");
    running.signal(libc::SIGKILL);
    running.child.wait().unwrap();
    assert_eq!(runner.vms().len(), 1);
    runner.succeed(&["run", "--", "true"]);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_vm_of_a_living_runner_is_not_reclaimed() {
    let runner = Runner::new();
    runner.succeed(&["run", "-d", "--name", "box"]);
    runner.succeed(&["gc"]);
    runner.succeed(&["run", "--", "true"]);
    assert_eq!(runner.succeed(&["exec", "box", "--", "echo", "here"]), "here\n");
    runner.succeed(&["stop", "box"]);
}
