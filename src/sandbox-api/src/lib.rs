//! An API for programs that use sandboxes. It knows sandboxes by the trait only.
//!
//! | to know | read |
//! |---|---|
//! | who starts the VMs | `launcher.rs` |
//! | the life of a sandbox: time-outs, pause, budgets | `sandboxes.rs` |
//! | API keys | `key.rs` |
//! | the REST API | `rest.rs` |
//! | what a sandbox uses | `metrics.rs` |
//! | files in a sandbox: describe, list, make, move, remove, watch, read, write | `files.rs` |

mod clock;
pub mod files;
mod key;
mod launcher;
mod metrics;
mod rest;
mod sandboxes;
#[cfg(test)]
mod testing;

pub use clock::{Clock, SystemClock};
pub use key::{ApiKey, KeyError, Keys, NewKey, Scope};
pub use launcher::{
    Destination, LaunchError, LaunchRequest, Launched, Launcher, NetworkRequest, Reservation,
    Template,
};
pub use metrics::{MetricsError, Sample, Samples};
pub use rest::Rest;
pub use sandboxes::{
    Caller, Connected, CreateRequest, Error, Filter, Lifecycle, Limits, ManagedSandbox, Order,
    Page, Result, RunningSandbox, Sandboxes, Settings, State, Status, TooMany,
};
