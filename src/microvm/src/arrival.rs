//! Waiting until a program that was just started listens on a socket.
//!
//! Programs do not say when they do, so the folder is watched for the socket; between its appearance
//! and its listening are two system calls.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::vmm::{Launch, Member};
use crate::{Error, Result};

/// How much of a program's last words is told.
const WORDS: u64 = 2048;

/// Tries `attempt` until it succeeds: at once, and whenever something appears in the VM's folder. If
/// the program ends first, its last words are read from `errors`.
pub fn wait_for_socket<T>(
    launch: &Launch<'_>,
    member: &Member,
    socket: &'static str,
    errors: &OwnedFd,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T> {
    let watch = watch(launch)?;
    loop {
        if let Some(arrived) = attempt() {
            return Ok(arrived);
        }
        if let Some(status) = member.child.try_wait().map_err(Error::Process)? {
            let (program, words) = (member.program, last_words(errors));
            return Err(Error::Ended { program, status, words });
        }
        if Instant::now() >= launch.deadline {
            return Err(Error::NotListening { program: member.program, socket: socket.into() });
        }
        if launch.folder.vmm_file(socket).exists() {
            std::thread::yield_now();
        } else {
            sleep(&watch, member, launch.deadline)?;
        }
    }
}

/// What a program that has ended said in `errors`, behind `; it said:`, or nothing. Others may still
/// have the pipe's other end.
pub fn last_words(errors: &OwnedFd) -> String {
    let mut words = Vec::new();
    // It ends with an error where the pipe has another end, and what was read is there.
    let _ = read_all(errors, &mut words);
    let clean = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
    let text: String = String::from_utf8_lossy(&words).chars().map(clean).collect();
    match text.trim() {
        "" => String::new(),
        words => format!("; it said: {words}"),
    }
}

fn read_all(pipe: &OwnedFd, words: &mut Vec<u8>) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    std::fs::File::from(pipe.try_clone()?).take(WORDS).read_to_end(words).map(drop)
}

fn watch(launch: &Launch<'_>) -> Result<Inotify> {
    let failed = |errno: Errno| Error::Poll { source: errno.into() };
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    let folder = launch.folder.working_folder();
    watch.add_watch(&folder, AddWatchFlags::IN_CREATE).map_err(failed)?;
    Ok(watch)
}

/// Waits for a new file, the program's end, or the deadline.
fn sleep(watch: &Inotify, member: &Member, deadline: Instant) -> Result<()> {
    let mut fds = [
        PollFd::new(watch.as_fd(), PollFlags::POLLIN),
        PollFd::new(member.child.pidfd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, process::poll_timeout(deadline)) {
        Ok(_) | Err(Errno::EINTR) => {
            while watch.read_events().is_ok() {}
            Ok(())
        }
        Err(errno) => Err(Error::Poll { source: errno.into() }),
    }
}
