//! Everything that the CLI started and left. As a subreaper this process gets all of it as children,
//! whatever sessions and groups they made, and so can end all of it.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// More rounds than any chain of parents and children that is not made to grow for ever.
const ROUNDS: usize = 1000;

/// From now on orphans of this process's descendants become its children.
pub(crate) fn adopt_orphans() {
    if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
        log::warn!("what the agent leaves behind may stay; error={errno}");
    }
}

/// Ends all children and what becomes a child by that.
///
/// INVARIANT: the CLI itself is reaped before this, so that no pid here belongs to a `Child`. A
/// child that is not reaped yet keeps its number, so a signal meets nobody else.
pub(crate) fn end_all() {
    for _ in 0..ROUNDS {
        let children = children();
        if children.is_empty() {
            return;
        }
        // It may have exited already.
        let kill = |pid: &Pid| !matches!(kill(*pid, Signal::SIGKILL), Err(Errno::EPERM));
        let (ended, others): (Vec<_>, Vec<_>) = children.into_iter().partition(kill);
        for pid in &ended {
            // Killed, so this waits for the kernel only.
            while let Err(Errno::EINTR) = waitpid(*pid, None) {}
        }
        // Another user's, which we have no right to end: waiting for it would have no limit.
        if ended.is_empty() {
            return log::warn!("processes of other users stay; count={}", others.len());
        }
    }
    log::warn!("the agent's processes come faster than they go");
}

/// Takes the status of orphans that have exited, so that they do not stay as zombies; not that of
/// the CLI, whose pid is `but`.
pub(crate) fn reap(but: Option<u32>) {
    for pid in children().into_iter().filter(|pid| Some(pid.as_raw() as u32) != but) {
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// The children of all threads of this process.
fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    let numbers = lists.iter().flat_map(|list| list.split_whitespace());
    numbers.filter_map(|number| number.parse().ok()).map(Pid::from_raw).collect()
}
