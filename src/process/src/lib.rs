//! Processes that are cloned into a cgroup, watched by pidfd, and killed with all descendants.
//!
//! Both ends use it: the host for virtual machine monitors, the guest for commands.
//!
//! - [`Command`] describes a process. It inherits only what is named, of environment and descriptors.
//!   Credentials, session, namespaces and limits are set between fork and exec; the process is in its
//!   [`Cgroup`] from its first instruction.
//! - [`Child`] owns the process: its pidfd cannot be recycled, and dropping it kills it.
//! - [`Cgroup`] contains all descendants, also those that left their session: killing it kills them.

mod cgroup;
mod child;
mod command;
mod error;
mod jail;
mod spawn;
mod sys;

pub use base::deadline::poll_timeout;
pub use cgroup::{Cgroup, MemoryEvents, mount_point};
pub use child::{Child, Status};
pub use command::{Command, Credentials, Network, Resource};
pub use error::{Error, Result, Stage};
pub use jail::Jail;
