//! An API for programs that use sandboxes. It knows sandboxes by the trait only.
//!
//! | to know | read |
//! |---|---|
//! | who starts the VMs | `launcher.rs` |
//! | the life of a sandbox: time-outs, pause, budgets | `sandboxes.rs` |
//! | API keys | `key.rs` |
//! | which request goes where | `api.rs` |
//! | the REST API | `rest.rs` |
//! | commands in a sandbox, and who follows their output | `process.rs` |
//! | the services for commands and files, as programs call them | `envd.rs` |
//! | servers in a sandbox, reached by host names | `port.rs` |
//! | what a sandbox uses | `metrics.rs` |
//! | what happened to a sandbox | `event_log.rs` |
//! | how a thread waits for a command, a client and the sandbox's end at once | `wait.rs` |
//! | files in a sandbox: describe, list, make, move, remove, watch, read, write | `files.rs` |

mod account;
mod api;
mod clock;
mod envd;
mod event_log;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod files;
mod key;
mod launcher;
mod metrics;
mod port;
pub mod process;
mod rest;
mod sandboxes;
#[cfg(test)]
mod testing;
mod wait;

pub use account::Login;
pub use api::Api;
pub use clock::{Clock, SystemClock};
pub use event_log::{EventLog, LoggedEvent};
pub use key::{ApiKey, KeyError, Keys, NewKey, Scope};
pub use launcher::{
    Destination, LaunchError, LaunchRequest, Launched, Launcher, NetworkRequest, Reservation,
    Template,
};
pub use metrics::{MetricsError, Sample, Samples};
pub use port::forward::forward;
pub use rest::Rest;
pub use sandboxes::{
    Caller, Connected, CreateRequest, Error, Filter, Lifecycle, Limits, ManagedSandbox, Order,
    Page, Result, RunningSandbox, Sandboxes, Settings, State, Status, TooMany,
};
