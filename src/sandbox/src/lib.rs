//! What a sandbox is: the trait and its vocabulary.
//!
//! A [`SandboxFactory`] starts sandboxes, a [`Sandbox`] runs commands ([`Sandbox::exec`]) and
//! moves files ([`Sandbox::write`], [`Sandbox::read`]). Everything blocks, with a deadline, and
//! may be called from several threads at once. Whoever holds a sandbox owns it: dropping it ends
//! it and all that belongs to it.
//!
//! No crate of ours is beneath this one, and no kind of virtual machine is named in it. With the
//! feature `fake` it brings a scripted sandbox for tests.

mod cancellation;
mod config;
mod error;
mod exec;
#[cfg(feature = "fake")]
pub mod fake;
mod id;
mod intercept;
mod network;
mod tree;

use std::time::Instant;

use crossbeam_channel::Receiver;

pub use cancellation::Cancellation;
pub use config::{DiskLimits, Image, SandboxConfig, StartReport};
pub use error::{Cause, Error, Result};
pub use exec::{Event, ExecRequest, Execution, Exit, Outcome, PtySize, Stream, User};
pub use id::SandboxId;
pub use intercept::{
    Dropped, HostFilter, HostSocket, Interception, Interceptor, PROXY_UID, PROXY_UID_MASK, Pass,
    REFUSED, Watch,
};
pub use network::{Action, Limits, Network, Policy, Protocol, Publish, Rule, Service};
pub use tree::{Entry, EntryKind, Owner, Special, TreeItem, TreeReader, TreeWriter, WriteRequest};

/// Starts sandboxes of one kind.
pub trait SandboxFactory: Send + Sync {
    /// What kind: `qemu`, `firecracker`.
    fn kind(&self) -> &'static str;

    /// Starts a sandbox, which takes commands when this returns. A failed start leaves nothing.
    ///
    /// A start may wait in a queue first. Cancellation ends that wait. Time in the queue does not
    /// count against the deadline; each kind of sandbox limits it.
    fn start(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Result<Box<dyn Sandbox>>;

    /// Makes the snapshot that such sandboxes start from, if this kind has snapshots and none exists.
    fn make_ready(
        &self,
        _config: &SandboxConfig,
        _cancellation: &Cancellation,
        _deadline: Instant,
    ) -> Result<()> {
        Ok(())
    }

    /// Starts a warm sandbox: it has the size and the image of `config`, but no identity and no
    /// network traffic. It takes commands after [`Sandbox::assign`].
    fn prepare(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Result<Box<dyn Sandbox>>;
}

/// A running sandbox.
pub trait Sandbox: Send + Sync {
    /// Its name on this host.
    fn id(&self) -> SandboxId;

    /// How it started.
    fn start_report(&self) -> &StartReport;

    /// Starts a command. A command that cannot start is no error here: its exit says so.
    fn exec(&self, request: &ExecRequest, deadline: Instant) -> Result<Box<dyn Execution>>;

    /// Begins to write a tree of files.
    fn write(&self, request: &WriteRequest, deadline: Instant) -> Result<Box<dyn TreeWriter>>;

    /// Begins to read the tree of files at an absolute path.
    fn read(&self, path: &std::path::Path, deadline: Instant) -> Result<Box<dyn TreeReader>>;

    /// Makes one that was prepared or parked what distinguishes it: name, labels, network, host name
    /// and time zone are those of `config`, the time is right, and its randomness is its own. It keeps
    /// its id. After an error it is only good to be ended.
    fn assign(&self, config: &SandboxConfig, deadline: Instant) -> Result<()>;

    /// Puts it aside until it is assigned again: it reaches nothing and nothing reaches it, its
    /// processors stand still, and memory that it can spare goes back to the host. What is in it stays.
    /// After an error it is only good to be ended.
    fn park(&self, deadline: Instant) -> Result<()>;

    /// Disconnects when the sandbox has ended, for whatever reason.
    fn ended(&self) -> Receiver<()>;

    /// Ends it in an orderly way, or by force at the deadline. Nothing is left afterwards.
    fn stop(self: Box<Self>, deadline: Instant) -> Result<()>;

    /// Ends it at once, as pulling a plug does. Nothing is left afterwards.
    fn kill(self: Box<Self>) -> Result<()>;
}
