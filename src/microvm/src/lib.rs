//! What every virtual machine monitor needs.
//!
//! A crate for one kind of monitor brings a [`Vmm`]: it knows the monitor's command line and
//! nothing else. Here is the rest of a VM's life, the same for all kinds: its folder, cgroup, disk,
//! guest link, console, control socket, the thread that owns them all, and what is done about those
//! whose owner died.
//!
//! | to know | read |
//! |---|---|
//! | what a VM consists of, in which order it comes and goes | `machine.rs` |
//! | its thread | `supervisor.rs` |
//! | what it has on disk | `folder.rs` |
//! | how other processes reach it | `control.rs`, `attach.rs` |
//! | what happens after kill -9 | `reclaim.rs` |
//! | what a VM may use of its host | `limit.rs` |
//! | how many start at once | `gate.rs` |
//! | what a VM can go on from | `snapshot.rs` |
//! | how a VM becomes somebody's, and is parked | `machine.rs`, `network.rs`, `balloon.rs` |

mod arrival;
mod attach;
mod balloon;
mod check;
mod console;
mod control;
mod disk;
mod error;
mod factory;
mod fate;
mod folder;
mod gate;
mod kvm;
mod limit;
mod link;
mod machine;
mod network;
mod owner;
mod reclaim;
mod record;
mod session;
mod snapshot;
mod supervisor;
mod sys;
mod tool;
mod vm;
mod vmm;

pub use arrival::{last_words, wait_for_socket};
pub use attach::{attach, force_stop};
pub use check::{Finding, State, check};
pub use error::{Error, Result};
pub use factory::{Factory, Warm};
pub use folder::Folder;
pub use kvm::{Kvm, probe};
pub use owner::Owner;
pub use reclaim::{kill, reclaim};
pub use record::{Phase, PublishedPort, VmRecord, find, list};
pub use snapshot::sweep;
pub use tool::{kvm_group, look_up};

pub use vmm::{
    Launch, Launched, Member, Remote, SNAPSHOT_MEMORY, SNAPSHOT_STATE, SnapshotIdentity, Vmm,
    kernel_command_line, time_left,
};
