//! What runner, guest and platform say to each other. Each name and each type of the wire format, which is JSON with
//! members in camelCase, is declared here once.
//!
//! | what | where |
//! |---|---|
//! | a run's ID | [`RunId`] |
//! | a job that a runner may claim | [`Offer`] |
//! | the name of a group of runners | [`is_group`] |
//! | a job's storages: platform to runner to guest | [`StorageManifest`] |
//! | the end of a run: guest to runner, runner to platform | [`AgentOutcome`], [`Completion`] |
//! | the environment variables of the guest's programs | [`mod@env`] |
//! | the guest's account, paths and addresses | [`guest`] |
//! | an entry of the telemetry's operations | [`Operation`] |
//!
//! INVARIANT: the serialized form of a type is the contract's. A change of it is a change of the contract.

mod completion;
pub mod env;
pub mod exit_code;
mod group;
pub mod guest;
mod manifest;
mod offer;
mod operation;
mod outcome;
mod run_id;

pub use completion::{CompleteRequest, Completion, RUNNER_DIED, SandboxReuse};
pub use group::is_group;
pub use manifest::{InstructionCleanup, StorageManifest, StorageMount};
pub use offer::Offer;
pub use operation::Operation;
pub use outcome::AgentOutcome;
pub use run_id::{InvalidRunId, RunId};
