//! What VMs may reach: policies as users write them, and the proxies that enforce them.
//!
//! | module | content |
//! |---|---|
//! | [`NetworkChoice`] | the kind of a VM's network: open, none, by a policy, intercepted |
//! | [`network`] | policies for packets, with limits |
//! | [`restriction`] | a policy that one of the VM's user restricts further |
//! | [`InterceptionPolicy`] | policies for requests, which the proxy enforces |
//! | [`ProxyPool`] | the proxies, started on demand |
//! | [`SecretHost`] | secrets that VMs see as placeholders |
//! | [`host_ca`] | certificate authorities of the host that VMs trust |
//! | [`self_test`] | a test of interception on this host |
//! | [`disk`] | sizes and limits of disks |

mod choice;
pub mod disk;
mod error;
pub mod host_ca;
mod interception;
pub mod network;
mod number;
mod proxy_pool;
pub mod restriction;
mod secret;
pub mod self_test;

pub use self::choice::NetworkChoice;
pub use self::error::{Error, Result, Usage};
pub use self::interception::InterceptionPolicy;
pub use self::proxy_pool::ProxyPool;
pub use self::secret::{SecretHost, restrict_to_hosts};
