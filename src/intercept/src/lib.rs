//! Interception of VMs' traffic by mitmproxy: starts it, supervises it, and gives it a policy for each VM.
//!
//! ```text
//!   runner                                   mitmdump, a user of its own
//!   ┌────────────────────────────┐ lines of ┌───────────────────────────────┐
//!   │ Proxy ── thread `proxy` ───┼── JSON ──┼─▶ proxy/egress: registry,     │
//!   │   listener, logs    ~       │ socket   │   policy, credentials         │
//!   └────────────────────────────┘ pair     └───────────────────────────────┘
//!            VM ── TCP, redirected in the host's namespace ──▶ the listener
//! ```
//!
//! A process has one [`Proxy`] for all its VMs, and an [`InterceptionConfig`] for each VM. The listening
//! socket belongs to us and outlives the proxy: no other program can take its port, and connections wait in
//! it while the proxy restarts. Connections from unregistered addresses are closed.
//!
//! | to know | read |
//! |---|---|
//! | how the proxy is started, supervised and restarted | `supervisor.rs`, `launch.rs`, `proxy_process.rs` |
//! | the messages between proxy and runner | `message.rs`, and `proxy/egress/control.py` |
//! | the policy | `policy.rs`: its form; `proxy/egress/policy.py`: its meaning |
//! | the log of a VM's traffic | `network_log.rs`; without secrets: `masked_log.rs` |
//! | the certificate authority | `authority.rs` |

mod addon;
mod authority;
mod credential;
mod error;
mod handle;
mod interception;
mod launch;
mod masked_log;
mod message;
mod network_log;
mod observer;
mod policy;
mod probe;
mod proxy;
mod proxy_folder;
mod proxy_process;
mod supervisor;

pub use authority::CertificateAuthority;
pub use credential::{Credential, CredentialError, CredentialProvider};
pub use error::{Error, Result};
pub use interception::InterceptionConfig;
pub use launch::PROGRAM;
pub use network_log::{NetworkLogEntry, NetworkLogFile};
pub use policy::{Api, Firewall, Grants, Permission, Policy, Reachable, Secret, Verdict};
pub use probe::probe;
pub use proxy::{Proxy, ProxyConfig};
