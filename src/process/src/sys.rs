//! The system calls that no safe wrapper covers: clone3, what runs between fork and exec,
//! signals by pidfd.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::command::{Limit, Resource};
use crate::error::Stage;
use crate::{Credentials, Status, jail};

/// libc's constant of this name is too narrow for its value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// All that the child needs, made before the fork: after it nothing may allocate.
pub(crate) struct Plan {
    pub(crate) candidates: Vec<CString>,
    /// The program, opened: then there are no candidates.
    pub(crate) file: Option<RawFd>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) cwd: Option<CString>,
    /// To be had from 0 on; each is above all those numbers.
    pub(crate) descriptors: Vec<RawFd>,
    pub(crate) report: RawFd,
    pub(crate) cgroup: Option<RawFd>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) unshare_network: bool,
    pub(crate) network: Option<RawFd>,
    pub(crate) jail: Option<jail::Plan>,
    pub(crate) session: bool,
    pub(crate) terminal: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) parent_death_signal: Option<i32>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) oom_score: Option<String>,
}

/// Takes ownership of a new descriptor.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass what fcntl(F_DUPFD_CLOEXEC) or clone3 returned a moment ago.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Forks a child that carries out `plan`; returns its pid and pidfd.
pub(crate) fn clone(plan: &Plan) -> io::Result<(u32, OwnedFd)> {
    let argv = pointers(&plan.arguments);
    let envp = pointers(&plan.environment);
    let parent = std::process::id();
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is a struct of integers, for which zero is "not asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = plan.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of this thread's memory and stack, as
    // after fork(2); it runs only `carry_out`, which neither allocates nor takes a lock.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => carry_out(plan, &argv, &envp, parent),
        pid => Ok((pid as u32, own(pidfd))),
    }
}

/// The child, from fork to exec.
fn carry_out(plan: &Plan, argv: &[*const c_char], envp: &[*const c_char], parent: u32) -> ! {
    let failed = match prepare(plan, parent) {
        Ok(()) => (Stage::Exec, exec(plan, argv, envp)),
        Err(failed) => failed,
    };
    let mut report = [failed.0 as u8, 0, 0, 0, 0];
    report[1..].copy_from_slice(&failed.1.to_ne_bytes());
    // SAFETY: `report` outlives the call; _exit runs no destructor that belongs to the parent.
    unsafe {
        libc::write(plan.report, report.as_ptr().cast::<c_void>(), report.len());
        libc::_exit(127)
    }
}

/// Every stage but the last; an error is the stage and its number.
fn prepare(plan: &Plan, parent: u32) -> Result<(), (Stage, c_int)> {
    // SAFETY: all of these are async-signal-safe system calls on integers or on memory of
    // `plan`, which this process has its own copy of.
    unsafe {
        default_signals();
        for (target, fd) in (0..).zip(&plan.descriptors) {
            check(Stage::Stdio, libc::dup2(*fd, target).into())?;
        }
        if let Some(score) = &plan.oom_score {
            set_oom_score(score)?;
        }
        if plan.session {
            check(Stage::Session, libc::setsid().into())?;
        }
        if plan.terminal {
            check(Stage::Terminal, libc::ioctl(0, libc::TIOCSCTTY, 0).into())?;
        }
        if let Some(network) = plan.network {
            check(Stage::Network, libc::setns(network, libc::CLONE_NEWNET).into())?;
        }
        if plan.unshare_network {
            check(Stage::Network, libc::unshare(libc::CLONE_NEWNET).into())?;
        }
        if let Some(jail) = &plan.jail {
            jail::sys::enter(jail, plan.credentials.as_ref())
                .map_err(|number| (Stage::Jail, number))?;
        }
        if let Some(who) = &plan.credentials {
            become_user(who)?;
        }
        if let Some(signal) = plan.parent_death_signal {
            // After the change of user, which clears it.
            check(Stage::ParentDeath, libc::prctl(libc::PR_SET_PDEATHSIG, signal).into())?;
            if libc::getppid() as u32 != parent {
                return Err((Stage::ParentDeath, libc::ESRCH));
            }
        }
        if plan.no_new_privileges {
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            check(Stage::NoNewPrivileges, done.into())?;
        }
        set_limits(&plan.limits)?;
        let cwd = plan.cwd.as_deref().unwrap_or(c"/");
        check(Stage::Cwd, libc::chdir(cwd.as_ptr()).into())?;
    }
    Ok(())
}

/// Sets resource limits.
fn set_limits(limits: &[Limit]) -> Result<(), (Stage, c_int)> {
    for Limit { resource, soft, hard } in limits {
        let limit = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
        let resource = match resource {
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::CoreDump => libc::RLIMIT_CORE,
        };
        // SAFETY: the pointer is to `limit`, which lives until the call returns; the old limit is not asked for.
        let done = unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                resource,
                &raw const limit,
                ptr::null_mut::<libc::rlimit64>(),
            )
        };
        check(Stage::Limits, done)?;
    }
    Ok(())
}

/// Signal actions and mask as the program expects to find them.
///
/// # Safety
/// For a child between fork and exec only: it ends the signal handling of its process.
unsafe fn default_signals() {
    // SAFETY: SIG_DFL needs no handler; failures (SIGKILL, SIGSTOP, libc's own) do not matter.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// As long as it may: the kernel asks for privileges to lower it.
///
/// # Safety
/// For a child between fork and exec only: the descriptor stays open until exec.
unsafe fn set_oom_score(score: &str) -> Result<(), (Stage, c_int)> {
    // SAFETY: the path ends with a zero byte; `score` is alive and as long as stated.
    unsafe {
        let path = c"/proc/self/oom_score_adj";
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(Stage::OomScore, file.into())?;
        let written = libc::write(file, score.as_ptr().cast::<c_void>(), score.len());
        check(Stage::OomScore, written as c_long)
    }
}

/// By raw system calls: libc's wrappers would ask the other threads of the parent, which are
/// not here, to follow.
///
/// # Safety
/// For a child between fork and exec only.
unsafe fn become_user(who: &Credentials) -> Result<(), (Stage, c_int)> {
    // SAFETY: `groups` is alive and as long as stated.
    unsafe {
        let count = who.groups.len();
        let groups = who.groups.as_ptr();
        check(Stage::Credentials, libc::syscall(libc::SYS_setgroups, count, groups))?;
        check(Stage::Credentials, libc::syscall(libc::SYS_setresgid, who.gid, who.gid, who.gid))?;
        check(Stage::Credentials, libc::syscall(libc::SYS_setresuid, who.uid, who.uid, who.uid))
    }
}

/// Tries the candidates in order; returns the error number when none runs.
fn exec(plan: &Plan, argv: &[*const c_char], envp: &[*const c_char]) -> c_int {
    let mut error = libc::ENOENT;
    let first = plan.descriptors.len();
    if let Some(file) = plan.file {
        // SAFETY: as below; the path is empty, so the descriptor itself is run.
        unsafe {
            libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
            libc::syscall(libc::SYS_execveat, file, path, argv.as_ptr(), envp.as_ptr(), flags);
            return *libc::__errno_location();
        }
    }
    for candidate in &plan.candidates {
        // SAFETY: `argv` and `envp` end with a null pointer and point into `plan`. close_range
        // marks, so the report pipe still works if execve fails.
        let number = unsafe {
            libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            libc::execve(candidate.as_ptr(), argv.as_ptr(), envp.as_ptr());
            *libc::__errno_location()
        };
        match number {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => error = libc::EACCES,
            other => return other,
        }
    }
    error
}

fn check(stage: Stage, result: c_long) -> Result<(), (Stage, c_int)> {
    if result == -1 {
        // SAFETY: __errno_location is this thread's own.
        return Err((stage, unsafe { *libc::__errno_location() }));
    }
    Ok(())
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let pointers = strings.iter().map(|string| CStr::as_ptr(string));
    pointers.chain([ptr::null()]).collect()
}

/// pidfd_send_signal(2).
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: a null siginfo means "as kill(2) does"; the descriptor is borrowed for the call.
    let result = unsafe {
        let info = ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// waitid(2) on a pidfd: how the process ended, once it has. By hand, since nix knows no real-time
/// signals and takes one for an error.
pub(crate) fn wait(pidfd: BorrowedFd<'_>, flags: c_int) -> io::Result<Option<Status>> {
    // SAFETY: siginfo_t is plain data, for which zero is valid; the kernel fills it in. The fields
    // that are read belong to SIGCHLD, which is what waitid reports; zero means none did.
    let (code, status, pid) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let fd = pidfd.as_raw_fd() as libc::id_t;
        if libc::waitid(libc::P_PIDFD, fd, &raw mut info, flags) == -1 {
            return Err(io::Error::last_os_error());
        }
        (info.si_code, info.si_status(), info.si_pid())
    };
    Ok(match code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Status::Exited((status & 0xff) as u8)),
        _ => {
            Some(Status::Signalled { signal: status as u8, core_dumped: code == libc::CLD_DUMPED })
        }
    })
}
