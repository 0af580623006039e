//! The errors of virtual machines.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use process::Status;
use sandbox::SandboxId;

/// An error of a virtual machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// An operation on a file or folder failed.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// A record cannot be parsed.
    #[error("{path} is not a VM's record")]
    Record { path: PathBuf, source: serde_json::Error },
    /// The disk could not be cloned.
    #[error("cannot clone the disk {template} to {target}")]
    CloneDisk { template: PathBuf, target: PathBuf, source: io::Error },
    /// The VM's disk grew into the host's reserve.
    #[error(
        "the host's disk is full: {free_mib} MiB are free of the {reserve_mib} MiB that it keeps \
         for itself, and the VM's disk has grown to {used_mib} MiB"
    )]
    HostDiskFull { free_mib: u64, reserve_mib: u64, used_mib: u64 },
    /// The name is taken.
    #[error(
        "the name `{name}` belongs to VM {id}, which runs: choose another, or `runner stop {name}`"
    )]
    NameTaken { name: String, id: SandboxId },
    /// No VM has the name.
    #[error("no VM `{name}`: `runner ps` lists those that run")]
    NotFound { name: String },
    /// Several VMs have the name.
    #[error("`{name}` fits several VMs: {ids}")]
    Ambiguous { name: String, ids: String },
    /// An error of one kind of monitor.
    #[error(transparent)]
    Monitor(sandbox::Cause),
    /// VMs of this kind cannot be saved.
    #[error("{kind} has no snapshots")]
    NoSnapshots { kind: &'static str },
    /// The warm-up before a snapshot failed.
    #[error("cannot warm up the VM for its snapshot")]
    WarmUp { source: sandbox::Cause },
    /// An operation on a process or cgroup failed.
    #[error(transparent)]
    Process(process::Error),
    /// A program is missing.
    #[error("cannot find `{program}`: {remedy}")]
    MissingProgram { program: &'static str, remedy: &'static str },
    /// The VM's thread could not be spawned.
    #[error("cannot start the thread of VM {id}")]
    Thread { id: SandboxId, source: io::Error },
    /// A start timed out in the queue.
    #[error(
        "the VM waited {after:.0?} {phase} to start: `runner ps` shows which VMs start; if none does, \
         remove the start limit's semaphores with `ipcrm -S {key:#x}`"
    )]
    StartQueueTimeout { phase: &'static str, after: Duration, key: i32 },
    /// A start was cancelled in the queue.
    #[error("the start of VM {id} was cancelled")]
    StartCancelled { id: SandboxId },
    /// The VM's thread panicked.
    #[error("the thread of VM {id} panicked: this is a bug")]
    Panicked { id: SandboxId },
    /// poll(2) on the VM's descriptors failed.
    #[error("cannot wait for the VM's processes")]
    Poll { source: io::Error },
    /// A process did not listen on its socket.
    #[error("`{program}` did not listen on {socket} in time")]
    NotListening { program: &'static str, socket: String },
    /// guest-init reported why it cannot boot.
    #[error("the guest cannot boot: {reason}")]
    Boot { reason: String },
    /// A process of the VM ended.
    #[error("`{program}` {}{output}", describe(status))]
    Ended { program: &'static str, status: Status, output: String },
    /// The kernel's OOM killer ended the VM.
    #[error("the VM was killed: {reason}")]
    OutOfMemory { reason: &'static str },
    /// The guest's kernel panicked for want of memory.
    #[error(
        "the VM ran out of memory ({memory_mib} MiB) and its kernel gave up: give it more with \
         `--memory`, or with `memory_mib` in a profile"
    )]
    GuestOutOfMemory { memory_mib: u32 },
    /// The VM ended during a call.
    #[error("the VM ended: {reason}")]
    Gone { reason: String },
    /// An operation on the VM's network failed.
    #[error(transparent)]
    Network(netns::Error),
    /// The interceptor did not register the VM.
    #[error("cannot register the VM at its interceptor")]
    Intercept(#[source] sandbox::Cause),
    /// The factory has no networks.
    #[error("the VM needs a network, and no networks were prepared")]
    NoNetworks,
    /// The balloon did not deflate.
    #[error("the guest did not take back {mib} MiB of its memory after it was parked")]
    Balloon { mib: u32 },
    /// Only the owner of the VM can do this.
    #[error("VM {id} belongs to another runner")]
    NotOwner { id: SandboxId },
    /// The VM is not assigned.
    #[error("VM {id} is {phase}: no command can run in it; `runner stop {id}` ends it")]
    Idle { id: SandboxId, phase: &'static str },
    /// The guest link failed.
    #[error(transparent)]
    Link(vsock_host::Error),
    /// The guest is not connected at the moment.
    #[error("the guest is not connected")]
    NotConnected,
    /// The handshake or the guest's first state failed.
    #[error("the guest did not come up{console}")]
    NoHello { console: String, source: vsock_host::Error },
    /// Random bytes could not be read.
    #[error("cannot read random bytes")]
    Entropy { source: io::Error },
    /// The VM did not end by the deadline.
    #[error("VM {id} did not end in time")]
    StillThere { id: SandboxId },
}

fn describe(status: &Status) -> String {
    match status {
        Status::Exited(0) => "ended: the guest powered off".to_owned(),
        Status::Exited(code) => format!("ended with code {code}"),
        Status::Signalled { signal, .. } => format!("was killed by signal {signal}"),
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

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
    fn an_error_chain_names_each_cause_once() {
        let source = io::Error::other("disk full");
        let inner = process::Error::Descriptors { program: "x".into(), source };
        let text = base::error::chain(&Error::Process(inner));
        assert_eq!(text, "cannot prepare descriptors for `x`: disk full");
    }
}
