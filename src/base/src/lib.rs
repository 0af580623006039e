//! What every crate needs and the standard library lacks.
//!
//! | module | content |
//! |---|---|
//! | [`thread`] | named threads, joined with a report of their panic |
//! | [`sync`] | a mutex and a condition variable without poisoning |
//! | [`event`] | an eventfd that wakes one sleeper |
//! | [`exec_limit`] | what execve(2) takes of arguments and environment |
//! | [`date`] | the time of day, in milliseconds and as ISO-8601 |
//! | [`deadline`] | deadlines as poll(2) wants them |
//! | [`durable`] | files that are replaced as a whole, or not at all |
//! | [`lock`] | exclusive locks between processes (flock) |
//! | [`backoff`] | exponential delays with jitter |
//! | [`random`] | random bytes and numbers of the kernel's |
//! | [`duration`], [`time_zone`] | durations and time zones as users write them |
//! | [`hex`] | bytes as hexadecimal digits |
//! | [`error`] | an error with all its causes on one line |
//!
//! It depends on no other crate of this workspace, and both host and guest depend on it.

pub mod backoff;
pub mod date;
pub mod deadline;
pub mod durable;
pub mod duration;
pub mod error;
pub mod event;
pub mod exec_limit;
pub mod hex;
pub mod lock;
pub mod random;
pub mod sync;
pub mod thread;
pub mod time_zone;
