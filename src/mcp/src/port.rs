//! How a port in a sandbox is reached.
//!
//! Over HTTP the server of the sandboxes API forwards it: by a host name, or by headers. A local server has
//! a listener for each on the loopback interface, on any free port.

mod forward;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base::sync::Mutex;
use sandbox_api::{ManagedSandbox, Sandboxes};

use self::forward::Forwarder;
use crate::failure::{Failure, Result};

/// The most published ports of a local server.
const MOST: usize = 64;

/// Where ports are published.
pub(crate) enum Ports {
    Local(Local),
    /// The domain below which sandboxes have host names, perhaps with a port.
    Remote(Option<String>),
}

/// The listeners of a local server, by sandbox and port.
#[derive(Default)]
pub(crate) struct Local(Mutex<HashMap<(String, u16), Forwarder>>);

/// What a port is reached by.
pub(crate) struct Published {
    pub(crate) url: String,
    /// Headers that requests need.
    pub(crate) headers: BTreeMap<&'static str, String>,
}

impl Ports {
    pub(crate) fn local() -> Self {
        Self::Local(Local::default())
    }

    pub(crate) fn remote(domain: Option<String>) -> Self {
        Self::Remote(domain)
    }

    /// `origin` is how an HTTP client reached the server.
    pub(crate) fn publish(
        &self,
        (sandboxes, origin): (&Arc<Sandboxes>, Option<&str>),
        sandbox: &Arc<ManagedSandbox>,
        port: u16,
    ) -> Result<Published> {
        match self {
            Self::Local(local) => {
                let address = local.publish(sandboxes, sandbox, port)?;
                let url = format!("http://{address}/");
                Ok(Published { url, headers: BTreeMap::new() })
            }
            Self::Remote(domain) => Ok(remote(origin, domain.as_deref(), sandbox, port)),
        }
    }

    /// Closes all listeners.
    pub(crate) fn stop(&self) {
        if let Self::Local(local) = self {
            let all = std::mem::take(&mut *local.0.lock());
            drop(all);
        }
    }
}

impl Local {
    fn publish(
        &self,
        sandboxes: &Arc<Sandboxes>,
        sandbox: &Arc<ManagedSandbox>,
        port: u16,
    ) -> Result<std::net::SocketAddr> {
        let key = (sandbox.id().to_owned(), port);
        let (ended, found) = {
            let mut all = self.0.lock();
            let ended: Vec<_> = all.extract_if(|_, one| one.has_ended()).collect();
            (ended, all.get(&key).map(Forwarder::address))
        };
        drop(ended);
        if let Some(address) = found {
            return Ok(address);
        }
        let forwarder = Forwarder::start(Arc::clone(sandboxes), Arc::clone(sandbox), port);
        let forwarder = forwarder.map_err(|error| {
            Failure::new(format!("cannot listen on the loopback interface: {error}"))
        })?;
        let address = forwarder.address();
        let mut all = self.0.lock();
        if all.len() >= MOST {
            drop(all);
            let text = format!("{MOST} ports are published, which is the most: end a sandbox");
            return Err(Failure::new(text));
        }
        let replaced = all.insert(key, forwarder);
        drop(all);
        // Another call was as fast; its client may use either until here.
        drop(replaced);
        Ok(address)
    }
}

fn remote(
    origin: Option<&str>,
    domain: Option<&str>,
    sandbox: &ManagedSandbox,
    port: u16,
) -> Published {
    let origin = origin.unwrap_or("http://localhost");
    let scheme = origin.split_once("://").map_or("http", |(scheme, _)| scheme);
    let id = sandbox.id();
    let mut headers = BTreeMap::new();
    if let Some(token) = sandbox.traffic_token() {
        headers.insert("E2b-Traffic-Access-Token", token.to_owned());
    }
    let url = match domain {
        Some(domain) => format!("{scheme}://{port}-{id}.{domain}/"),
        None => {
            headers.insert("E2b-Sandbox-Id", id.to_owned());
            headers.insert("E2b-Sandbox-Port", port.to_string());
            format!("{origin}/")
        }
    };
    Published { url, headers }
}
