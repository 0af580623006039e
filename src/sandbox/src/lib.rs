//! The traits of a sandbox, and their types.
//!
//! A [`SandboxFactory`] starts sandboxes, a [`Sandbox`] runs commands ([`Sandbox::exec`]) and
//! moves files ([`Sandbox::write`], [`Sandbox::read`]) and connects to ports ([`Sandbox::connect`]).
//! All calls block, with a deadline, and may be made from several threads at once. The holder of a sandbox owns it: dropping it ends it and
//! releases its resources.
//!
//! This crate knows no kind of virtual machine. The feature
//! `fake` adds a scripted sandbox for tests.

mod cancellation;
mod config;
mod error;
mod exec;
#[cfg(feature = "fake")]
pub mod fake;
mod id;
mod intercept;
pub mod label;
mod network;
mod tree;

use std::os::unix::net::UnixStream;
use std::time::Instant;

use crossbeam_channel::Receiver;

pub use cancellation::Cancellation;
pub use config::{DiskLimits, Image, SandboxConfig, StartReport};
pub use error::{Cause, Error, Result};
pub use exec::{Event, ExecRequest, Execution, Exit, Outcome, PtySize, Stream, User};
pub use id::SandboxId;
pub use intercept::{
    Dropped, EgressObserver, HostFilter, HostSocket, Interception, Interceptor, PROXY_UID,
    PROXY_UID_MASK, Registration, SINKHOLE,
};
pub use network::{
    Action, Destinations, Limits, Network, Policy, Protocol, Publish, Rule, Service,
};
pub use tree::{Entry, EntryKind, Owner, Special, TreeItem, TreeReader, TreeWriter, WriteRequest};

/// Starts sandboxes of one kind.
pub trait SandboxFactory: Send + Sync {
    /// The kind: `qemu`, `firecracker`.
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

    /// Starts a command. If the command cannot start, its exit reports that.
    fn exec(&self, request: &ExecRequest, deadline: Instant) -> Result<Box<dyn Execution>>;

    /// Starts writing a tree of files.
    fn write(&self, request: &WriteRequest, deadline: Instant) -> Result<Box<dyn TreeWriter>>;

    /// Starts reading the tree of files at an absolute path.
    fn read(&self, path: &std::path::Path, deadline: Instant) -> Result<Box<dyn TreeReader>>;

    /// Connects to a TCP port on which a process in the sandbox listens, on whichever address. Nothing
    /// listens on the host for it. The stream ends with the sandbox.
    ///
    /// Fails with [`Error::NothingListens`] if the port is refused.
    fn connect(&self, port: u16, deadline: Instant) -> Result<UnixStream>;

    /// Gives a prepared or parked sandbox its identity from `config` (name, labels, network, host name,
    /// time zone), sets its clock and reseeds its RNG. The id stays. After an error it can only be ended.
    fn assign(&self, config: &SandboxConfig, deadline: Instant) -> Result<()>;

    /// Parks it until it is assigned again: its network is closed, its vCPUs are paused, and spare memory
    /// is returned to the host. Its content stays. After an error it can only be ended.
    fn park(&self, deadline: Instant) -> Result<()>;

    /// Replaces the policy and the limits of a running sandbox's network, also for open connections. Its
    /// published ports, services and interceptor stay. After an error it can only be ended.
    fn set_network(&self, network: &Network, deadline: Instant) -> Result<()>;

    /// Disconnects when the sandbox has ended, for any reason.
    fn ended(&self) -> Receiver<()>;

    /// Shuts it down, or kills it at the deadline. Releases its resources.
    fn stop(self: Box<Self>, deadline: Instant) -> Result<()>;

    /// Kills it at once. Releases its resources.
    fn kill(self: Box<Self>) -> Result<()>;
}
