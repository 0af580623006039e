//! What can go wrong with a virtual machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use process::Status;
use sandbox::SandboxId;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder of a VM could not be handled.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be understood.
    #[error("{path} is not a VM's record")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The disk could not be made.
    #[error("cannot clone the disk {template} to {target}")]
    CloneDisk {
        /// The image's empty disk.
        template: PathBuf,
        /// The VM's.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VM's disk grew into what the host keeps free for itself.
    #[error(
        "the host's disk is full: {free_mib} MiB are free of the {reserve_mib} MiB that it keeps \
         for itself, and the VM's disk has grown to {used_mib} MiB"
    )]
    HostDiskFull {
        /// What is free.
        free_mib: u64,
        /// What is to be free.
        reserve_mib: u64,
        /// What the VM's disk takes.
        used_mib: u64,
    },
    /// The name is taken.
    #[error(
        "the name `{name}` belongs to VM {id}, which runs: choose another, or `runner stop {name}`"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: SandboxId,
    },
    /// No VM has the name.
    #[error("no VM `{name}`: `runner ps` lists those that run")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Several VMs have the name.
    #[error("`{name}` fits several VMs: {ids}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Which it fits.
        ids: String,
    },
    /// A kind of monitor has an error of its own.
    #[error(transparent)]
    Monitor(sandbox::Cause),
    /// VMs of this kind cannot be saved.
    #[error("{kind} has no snapshots")]
    NoSnapshots {
        /// The kind.
        kind: &'static str,
    },
    /// What was to be done in a VM before it is saved failed.
    #[error("cannot prepare the VM for its snapshot")]
    Warm {
        /// Why.
        source: sandbox::Cause,
    },
    /// A process or cgroup of the VM could not be handled.
    #[error(transparent)]
    Process(process::Error),
    /// A program that the VM needs is missing.
    #[error("cannot find `{program}`: {remedy}")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// How to get it.
        remedy: &'static str,
    },
    /// The VM's thread could not be started.
    #[error("cannot start the thread of VM {id}")]
    Thread {
        /// The VM.
        id: SandboxId,
        /// Why.
        source: io::Error,
    },
    /// A VM's turn to start did not come.
    #[error(
        "the VM waited {after:.0?} {phase} for its turn to start: `runner ps` shows what starts; \
         if nothing does, remove the gate with `ipcrm -S {key:#x}`"
    )]
    NoTurn {
        /// Where it waited.
        phase: &'static str,
        /// For how long.
        after: Duration,
        /// The key of the gate's semaphores.
        key: i32,
    },
    /// A VM was killed while it waited for its turn to start.
    #[error("VM {id} was ended before its turn to start came")]
    CalledOff {
        /// The VM.
        id: SandboxId,
    },
    /// The VM's thread panicked.
    #[error("the thread of VM {id} panicked: this is a bug")]
    Panicked {
        /// The VM.
        id: SandboxId,
    },
    /// The thread sleeps on descriptors, and that failed.
    #[error("cannot wait for the VM's processes")]
    Poll {
        /// Why.
        source: io::Error,
    },
    /// A socket of the VM did not appear.
    #[error("`{program}` did not listen on {socket} in time")]
    NotListening {
        /// Who should.
        program: &'static str,
        /// Where.
        socket: String,
    },
    /// The guest said why it cannot boot.
    #[error("the guest cannot boot: {reason}")]
    Boot {
        /// Its words.
        reason: String,
    },
    /// A process of the VM ended before its time.
    #[error("`{program}` {}{words}", describe(status))]
    Ended {
        /// Which process.
        program: &'static str,
        /// How it ended.
        status: Status,
        /// Its last words, and the console's.
        words: String,
    },
    /// The kernel killed the VM.
    #[error("the VM was killed: {reason}")]
    OutOfMemory {
        /// For want of whose memory.
        reason: &'static str,
    },
    /// The guest's kernel had no memory for itself.
    #[error(
        "the VM ran out of memory ({memory_mib} MiB) and its kernel gave up: give it more with \
         `--memory`, or with `memory_mib` in a profile"
    )]
    GuestOutOfMemory {
        /// How much it had.
        memory_mib: u32,
    },
    /// The VM ended while something was under way in it.
    #[error("the VM ended: {reason}")]
    Gone {
        /// Why it ended.
        reason: String,
    },
    /// The network could not be had.
    #[error(transparent)]
    Network(netns::Error),
    /// Whoever is to intercept what the VM sends does not let it in.
    #[error("the VM is not let in")]
    Intercept(#[source] sandbox::Cause),
    /// A network was asked for of somebody who has none.
    #[error("no networks were prepared")]
    NoNetworks,
    /// The guest does not take back memory that it gave.
    #[error(
        "the guest does not take back the {mib} MiB of memory that it gave while it was parked"
    )]
    Balloon {
        /// How much.
        mib: u32,
    },
    /// Only its owner can do that.
    #[error("VM {id} belongs to another runner")]
    NotOwner {
        /// The VM.
        id: SandboxId,
    },
    /// The VM is nobody's.
    #[error("VM {id} is {phase}: no command can run in it; `runner stop {id}` ends it")]
    Idle {
        /// The VM.
        id: SandboxId,
        /// `warm` or `parked`.
        phase: &'static str,
    },
    /// The guest link failed.
    #[error(transparent)]
    Link(vsock_host::Error),
    /// The guest's service is just being started.
    #[error("the guest is not connected")]
    NotConnected,
    /// The guest did not say hello.
    #[error("the guest did not come up{console}")]
    NoHello {
        /// The console's last lines.
        console: String,
        /// What the link says.
        source: vsock_host::Error,
    },
    /// Random bytes for a new guest could not be read.
    #[error("cannot read random bytes")]
    Entropy {
        /// Why.
        source: io::Error,
    },
    /// The VM is still there.
    #[error("VM {id} did not end in time")]
    StillThere {
        /// The VM.
        id: SandboxId,
    },
}

fn describe(status: &Status) -> String {
    match status {
        Status::Exited(0) => "ended: the guest powered off".to_owned(),
        Status::Exited(code) => format!("ended with code {code}"),
        Status::Signalled { signal, .. } => format!("was killed by signal {signal}"),
    }
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// An error with its causes, in one line: for what is logged, where nobody asks for the causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Names the operation and the path of a failed file operation.
pub(crate) fn file(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_tells_each_cause_once() {
        let source = io::Error::other("disk full");
        let inner = process::Error::Descriptors { program: "x".into(), source };
        let text = chain(&Error::Process(inner));
        assert_eq!(text, "cannot prepare descriptors for `x`: disk full");
    }
}
