//! The server of sandboxes for programs, as `sandbox serve` and `start` run it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_server::{Endpoint, Handler, Limits, Server, tls};
use rootfs::Store;
use sandbox::{Cause, Image, SandboxConfig};
use sandbox_api::{Api, Clock, Keys, Launcher, Sandboxes, Settings, SystemClock};
use service::{Config, PoolLauncher, Profile, SandboxesConfig, base_config};

use crate::error::{Error, Result};
use crate::options::Global;
use crate::vmm::{self, Host, Vmm};
use crate::{image, output};

/// Connections in all, and of one address: a program has one for each stream.
const LIMITS: (usize, usize) = (4096, 1024);

/// How long requests may take to finish when the server stops.
const GRACE: Duration = Duration::from_secs(1);

/// Sockets that listen, and their URLs.
pub(crate) struct Listeners(Vec<(String, Endpoint)>);

/// A running server. Dropping it ends all sandboxes.
pub(crate) struct SandboxServer {
    // Dropped before the sandboxes: no call comes in while they end.
    server: Server,
    mcp: Arc<mcp::Http>,
    sandboxes: Arc<Sandboxes>,
    keys: Arc<Keys>,
    addresses: Vec<String>,
}

/// Listens where the configuration says.
pub(crate) fn listen(config: &SandboxesConfig) -> Result<Listeners> {
    let tls = config.tls.as_ref().map(|(certificate, key)| tls::config(certificate, key));
    let tls = tls.transpose()?;
    let bind = |address: &SocketAddr| {
        let listener = TcpListener::bind(address);
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (bound, listener) =
            bound.map_err(|source| Error::Listen { address: *address, source })?;
        Ok(match &tls {
            Some(tls) => (format!("https://{bound}"), Endpoint::Tls(listener, Arc::clone(tls))),
            None => (format!("http://{bound}"), Endpoint::Tcp(listener)),
        })
    };
    Ok(Listeners(config.listen.iter().map(bind).collect::<Result<_>>()?))
}

impl SandboxServer {
    pub(crate) fn start(
        global: &Global,
        config: &SandboxesConfig,
        listeners: Listeners,
        launcher: Arc<dyn Launcher>,
    ) -> Result<Self> {
        let settings =
            Settings { default_timeout: config.default_timeout, max_timeout: config.max_timeout };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let sandboxes = Arc::new(Sandboxes::start(launcher, settings, Arc::clone(&clock))?);
        let keys = Arc::new(Keys::new(&global.state_dir));
        let (shared, domain) = (Arc::clone(&sandboxes), config.domain.clone());
        let mcp = Arc::new(agents(config, &sandboxes, &keys, &clock));
        let handler = Api::new(shared, Arc::clone(&keys), domain, clock)
            .with("/mcp", Arc::clone(&mcp) as Arc<dyn Handler>);
        let (connections, per_peer) = LIMITS;
        let limits = Limits { connections, per_peer, ..Limits::default() };
        let (addresses, endpoints) = listeners.0.into_iter().unzip();
        let server = Server::start("sandbox", endpoints, Arc::new(handler), limits)?;
        Ok(Self { server, mcp, sandboxes, keys, addresses })
    }

    /// Prints where programs reach it, and how to make an API key if there is none.
    pub(crate) fn announce(&self) -> Result<()> {
        for address in &self.addresses {
            output::line(format_args!("serves sandboxes at {address}"))?;
        }
        if self.keys.list()?.iter().all(|key| key.revoked) {
            output::remark("there is no API key yet: `runner key create` makes one");
        }
        Ok(())
    }

    /// Ends all sandboxes.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.mcp.stop();
        let stopped = self.server.stop(GRACE);
        self.sandboxes.stop();
        Ok(stopped?)
    }
}

/// A command of an agent would keep its connection.
impl Drop for SandboxServer {
    fn drop(&mut self) {
        self.mcp.stop();
    }
}

/// The endpoint of agents.
fn agents(
    config: &SandboxesConfig,
    sandboxes: &Arc<Sandboxes>,
    keys: &Arc<Keys>,
    clock: &Arc<dyn Clock>,
) -> mcp::Http {
    let options = mcp::Options { version: env!("CARGO_PKG_VERSION"), ..mcp::Options::default() };
    let server = mcp::Server::remote(Arc::clone(sandboxes), options, config.domain.clone());
    let hosts = mcp::Hosts::new(config.domain.iter().chain(&config.mcp_hosts).cloned());
    mcp::Http::new(server, Arc::clone(keys), hosts, Arc::clone(clock))
}

/// A launcher with a pool of its own, beside which there are no jobs.
pub(crate) fn launcher(
    global: &Global,
    config: &Config,
    store: &Store,
    vmm: Vmm,
) -> Result<PoolLauncher> {
    let host = Host::open(&global.state_dir)?;
    let examples = examples(config, store)?;
    let factory = host.factory_of(vmm, config.max_vms(), &examples, global)?;
    let (images, names) = (images(store), image_names(store));
    Ok(PoolLauncher::start(config, factory, vmm::kill_any(), images, names)?)
}

/// Finds the files of a profile's image.
pub(crate) fn images(store: &Store) -> Arc<service::Images> {
    let store = store.clone();
    Arc::new(move |profile| files(&store, profile).map_err(Cause::from))
}

/// Lists the images of a store.
pub(crate) fn image_names(store: &Store) -> Box<service::ImageNames> {
    let store = store.clone();
    Box::new(move || match store.list() {
        Ok(images) => images.into_iter().map(|image| image.name).collect(),
        Err(error) => {
            log::error!("cannot list the images; error={}", base::error::chain(&error));
            Vec::new()
        }
    })
}

/// A configuration of a VM of each profile whose image exists.
pub(crate) fn examples(config: &Config, store: &Store) -> Result<Vec<SandboxConfig>> {
    let profiles = config.profiles.values().filter(|profile| store.get(&profile.image).is_ok());
    profiles.map(|profile| Ok(base_config(profile, files(store, profile)?)?)).collect()
}

/// The files of a profile's image.
pub(crate) fn files(store: &Store, profile: &Profile) -> Result<Image> {
    image::files(store, &store.get(&profile.image)?, profile.disk_mib)
}
