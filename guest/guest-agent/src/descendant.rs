//! Processes that the CLI leaves behind. This process is a child subreaper: orphaned descendants
//! become its children, in whatever session or process group they are, so it can kill all of them.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Limits the rounds of killing. Only a fork bomb needs more: each round reaches one generation deeper.
const ROUNDS: usize = 1000;

/// Makes this process the subreaper of its descendants.
pub(crate) fn adopt_orphans() {
    if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
        log::warn!("cannot become a subreaper, processes of the agent may stay; error={errno}");
    }
}

/// Kills all children, and the orphans that become children by that.
///
/// INVARIANT: the CLI itself is reaped before this, so no pid here belongs to a `Child`. A child that
/// is not reaped keeps its pid, so the signal cannot reach another process.
pub(crate) fn end_all() {
    for _ in 0..ROUNDS {
        let children = children();
        if children.is_empty() {
            return;
        }
        // ESRCH counts as killed: it is a zombie, which the wait below reaps.
        let kill = |pid: &Pid| !matches!(kill(*pid, Signal::SIGKILL), Err(Errno::EPERM));
        let (ended, others): (Vec<_>, Vec<_>) = children.into_iter().partition(kill);
        for pid in &ended {
            // It was killed, so only the kernel delays this.
            while let Err(Errno::EINTR) = waitpid(*pid, None) {}
        }
        // Processes of other users, which this one may not kill. Waiting for them would have no limit.
        if ended.is_empty() {
            return log::warn!("processes of other users stay; count={}", others.len());
        }
    }
    log::warn!("the agent's processes fork faster than they can be killed");
}

/// Reaps orphans that have exited, so that no zombies stay. Does not reap the CLI, whose pid is `cli`.
pub(crate) fn reap(cli: Option<u32>) {
    for pid in children().into_iter().filter(|pid| Some(pid.as_raw() as u32) != cli) {
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
