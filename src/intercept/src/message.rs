//! What is said between us and the addon: lines of JSON. The table is in `egress/control.py`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::credential::{Grant, Refusal};
use crate::policy::{Policy, Secret};
use crate::record::Entry;
use crate::watch::Names;

/// The longest line of the addon's that makes sense.
pub(crate) const LONGEST: usize = 1 << 20;

/// What we say.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Order<'a> {
    Serve {
        id: u64,
    },
    Register {
        id: u64,
        vm: Ipv4Addr,
        #[serde(flatten)]
        pass: &'a Registration,
    },
    Unregister {
        id: u64,
        vm: Ipv4Addr,
    },
    Credential {
        id: u64,
        #[serde(flatten)]
        answer: Answer<'a>,
    },
}

/// What a VM is let pass. It holds secrets.
#[derive(Serialize)]
pub(crate) struct Registration {
    pub(crate) policy: Policy,
    pub(crate) secrets: Vec<Secret>,
    /// What must not be on record, besides.
    pub(crate) hidden: Vec<String>,
    /// Whether the beginnings of bodies are put on record.
    pub(crate) bodies: bool,
    /// Hosts whose bodies are not, all the same.
    pub(crate) private: Vec<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Answer<'a> {
    Grant(&'a Grant),
    Refusal(&'a Refusal),
}

/// What the addon says.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Report {
    Ready,
    Done { id: u64, error: Option<String>, names: Option<Names> },
    Credential { id: u64, vm: Ipv4Addr, api: usize, force: bool },
    Record { vm: Ipv4Addr, entry: Box<Entry> },
}

impl Order<'_> {
    /// Appends it to what is to be sent.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match serde_json::to_writer(&mut *out, self) {
            Ok(()) => out.push(b'\n'),
            Err(error) => log::error!("an order to the proxy cannot be written; error={error}"),
        }
    }
}
