//! Processes born into a cgroup, watched by pidfd, killed whole.
//!
//! Both ends use it: the host for virtual machine monitors, the guest for commands.
//!
//! - [`Command`] says what a process is to be: nothing is inherited that it does not name, neither
//!   environment nor descriptors. Identity, session, namespaces and limits are set between fork
//!   and exec, and the process is in its [`Cgroup`] from its first instruction on.
//! - [`Child`] owns the process: its pidfd cannot be recycled, and dropping it kills it.
//! - [`Cgroup`] owns all descendants, even those that left their session: killing it kills them.

mod cgroup;
mod child;
mod command;
mod deadline;
mod error;
mod jail;
mod spawn;
mod sys;

pub use cgroup::{Cgroup, MemoryEvents, mount_point};
pub use child::{Child, Status};
pub use command::{Command, Credentials, Network, Resource};
pub use deadline::poll_timeout;
pub use error::{Error, Result, Stage};
pub use jail::Jail;
