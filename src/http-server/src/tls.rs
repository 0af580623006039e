//! TLS: the certificate with its key, and the thread that encrypts a connection.
//!
//! ```text
//! client ══ TCP ══ `<server>-tls-<n>` ── socket pair ── `<server>-<n>`, which knows no TLS
//! ```

mod certificate;
mod pump;

pub use self::certificate::config;
pub(crate) use self::pump::{Encrypted, Pump};
