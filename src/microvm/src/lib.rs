//! What every virtual machine monitor needs.
//!
//! A crate for one kind of monitor implements [`Vmm`]: it knows the monitor's command line and nothing
//! else. This crate has what is common to all kinds: a VM's folder, cgroup, disk, guest link, console,
//! control socket, the thread that owns them, and the removal of VMs whose owner died.
//!
//! | to know | read |
//! |---|---|
//! | a VM's resources, and the order in which they are acquired and released | `machine.rs` |
//! | a VM's thread | `supervisor.rs` |
//! | a VM's files | `folder.rs` |
//! | how other processes reach a VM | `control.rs`, `attach.rs` |
//! | what is removed after kill -9 | `reclaim.rs` |
//! | a VM's limits on its host | `limit.rs` |
//! | how many VMs start at once | `start_limiter.rs` |
//! | whether a VM is restored or booted | `factory.rs` |
//! | how a VM is saved and restored | `snapshot.rs` |
//! | how a VM is assigned and parked | `machine.rs`, `network.rs`, `balloon.rs` |

mod attach;
mod balloon;
mod check;
mod console;
mod control;
mod disk;
mod error;
mod exit_reason;
mod factory;
mod folder;
mod kvm;
mod layout;
mod limit;
mod link;
mod machine;
mod network;
mod owner;
mod page_cache;
mod readiness;
mod reclaim;
mod record;
mod session;
mod snapshot;
mod start_limiter;
mod start_request;
mod supervisor;
mod sys;
mod tool;
mod vm;
mod vmm;

pub use attach::{attach, force_stop};
pub use check::{CheckState, HostCheck, check};
pub use error::{Error, Result};
pub use factory::{Factory, WarmUp};
pub use folder::{Folder, lock_folders};
pub use kvm::{Kvm, probe};
pub use owner::Owner;
pub use readiness::{stderr_tail, wait_for_socket};
pub use reclaim::{kill, reclaim};
pub use record::{Phase, PublishedPort, VmRecord, find, list};
pub use snapshot::sweep;
pub use tool::{kvm_group, look_up};

pub use vmm::{
    Launch, Launched, Member, Remote, SNAPSHOT_MEMORY, SNAPSHOT_STATE, SnapshotIdentity, Vmm,
    kernel_command_line, time_left,
};
