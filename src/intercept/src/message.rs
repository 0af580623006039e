//! Messages between us and the addon: lines of JSON. `egress/control.py` has the protocol.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::credential::{Credential, CredentialError};
use crate::network_log::NetworkLogEntry;
use crate::observer::NamePolicy;
use crate::policy::{Policy, Secret};

/// The limit of a line from the addon.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// A message to the addon.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum ProxyCommand<'a> {
    Serve {
        id: u64,
    },
    Register {
        id: u64,
        vm: Ipv4Addr,
        #[serde(flatten)]
        registration: &'a VmRegistration,
    },
    Unregister {
        id: u64,
        vm: Ipv4Addr,
    },
    Credential {
        id: u64,
        #[serde(flatten)]
        answer: CredentialResponse<'a>,
    },
}

/// The configuration of a VM. It holds secrets.
#[derive(Serialize)]
pub(crate) struct VmRegistration {
    pub(crate) policy: Policy,
    pub(crate) secrets: Vec<Secret>,
    /// Further values to mask in the log.
    pub(crate) hidden: Vec<String>,
    /// Log the beginning of each body.
    pub(crate) bodies: bool,
    /// Hosts whose bodies are never logged.
    pub(crate) private: Vec<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum CredentialResponse<'a> {
    Credential(&'a Credential),
    Error(&'a CredentialError),
}

/// A message from the addon.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum ProxyEvent {
    Ready,
    Done { id: u64, error: Option<String>, names: Option<NamePolicy> },
    Credential { id: u64, vm: Ipv4Addr, api: usize, force: bool },
    Record { vm: Ipv4Addr, entry: Box<NetworkLogEntry> },
}

impl ProxyCommand<'_> {
    /// Appends the message to an outbox.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match serde_json::to_writer(&mut *out, self) {
            Ok(()) => out.push(b'\n'),
            Err(error) => log::error!("cannot encode a command to the proxy; error={error}"),
        }
    }
}
