//! Waiting until a started program listens on its socket.
//!
//! Programs do not announce it. inotify reports when the socket's file appears (`bind`), but nothing
//! reports `listen`, which follows at once: in between the attempt is repeated with a back-off.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::vmm::{Launch, Member};
use crate::{Error, Result};

/// How much of a program's standard error goes into an error.
const STDERR_LIMIT: u64 = 2048;
/// The back-off between `bind` and `listen`: its first pause, which then doubles, and its longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Repeats `attempt` until it succeeds: at once, whenever a file appears in the VM's folder, and with a
/// back-off while `socket` exists. If the program ends first, the error has the tail of `errors`.
pub fn wait_for_socket<T>(
    launch: &Launch<'_>,
    member: &Member,
    socket: &'static str,
    errors: &OwnedFd,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T> {
    let inotify = watch_folder(launch)?;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(ready) = attempt() {
            return Ok(ready);
        }
        if let Some(status) = member.child.try_wait().map_err(Error::Process)? {
            let (program, output) = (member.program, stderr_tail(errors));
            return Err(Error::Ended { program, status, output });
        }
        let now = Instant::now();
        if now >= launch.deadline {
            return Err(Error::NotListening { program: member.program, socket: socket.into() });
        }
        if launch.folder.vmm_file(socket).exists() {
            wait(&inotify, member, launch.deadline.min(now + pause))?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else {
            wait(&inotify, member, launch.deadline)?;
        }
    }
}

/// What a program that has ended wrote to `errors`, as `; it said: …`, or an empty text. Another process
/// may still hold the pipe's write end.
pub fn stderr_tail(errors: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    // Fails with EAGAIN while there is another write end; what was read is in `bytes`.
    let _ = read_available(errors, &mut bytes);
    let clean = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
    let text: String = String::from_utf8_lossy(&bytes).chars().map(clean).collect();
    match text.trim() {
        "" => String::new(),
        text => format!("; it said: {text}"),
    }
}

fn read_available(pipe: &OwnedFd, bytes: &mut Vec<u8>) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    std::fs::File::from(pipe.try_clone()?).take(STDERR_LIMIT).read_to_end(bytes).map(drop)
}

fn watch_folder(launch: &Launch<'_>) -> Result<Inotify> {
    let failed = |errno: Errno| Error::Poll { source: errno.into() };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    let folder = launch.folder.working_folder();
    inotify.add_watch(&folder, AddWatchFlags::IN_CREATE).map_err(failed)?;
    Ok(inotify)
}

/// Sleeps until a file appears, the program ends, or `until`.
fn wait(inotify: &Inotify, member: &Member, until: Instant) -> Result<()> {
    let mut fds = [
        PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
        PollFd::new(member.child.pidfd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, process::poll_timeout(until)) {
        Ok(_) | Err(Errno::EINTR) => {
            while inotify.read_events().is_ok() {}
            Ok(())
        }
        Err(errno) => Err(Error::Poll { source: errno.into() }),
    }
}
