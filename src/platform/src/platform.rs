//! The running platform: the order of its start and stop.
//!
//! 1. The state folder with its lock, the database with its thread.
//! 2. The server, over TCP and over the operator's socket.
//! 3. The timer thread, and that of held polls; with a shared database also the thread that forwards notifications.
//!
//! It stops in the reverse order, after it has ended all long polls.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base::error::chain;
use http_server::{Endpoint, Limits, Server, tls};

use crate::api::Api;
use crate::backend::Backend;
use crate::error::file;
use crate::storage::LARGEST_LIST;
use crate::{Config, Error, Pruned, Result, Source, folder, placement, timer};

const TIMER: &str = "platform-timer";

const PLACE: &str = "platform-place";

#[cfg(feature = "postgres")]
const WAKEUP: &str = "platform-listen";

/// The most connections. Each runner has two: a held poll, and one for heartbeats.
const CONNECTIONS: usize = 4096;

/// Those of one address: a host's runner and its guests have the same.
const PER_PEER: usize = 512;

/// A running platform. Dropping it stops it.
pub struct Platform {
    backend: Arc<Backend>,
    server: Server,
    /// With their names; none after the end.
    threads: Vec<(&'static str, JoinHandle<()>)>,
    is_ended: bool,
    addresses: Vec<SocketAddr>,
}

impl Platform {
    /// Opens the state folder, and serves it.
    pub fn start(config: Config) -> Result<Self> {
        let (tcp, addresses) = listen(&config)?;
        let socket = folder::socket(&config.state);
        // 1
        let backend = Arc::new(Backend::open(config)?);
        // 2
        let mut endpoints = tcp;
        endpoints.push(Endpoint::Unix(listen_for_operator(&socket)?));
        let request_timeout = backend.config.request_timeout;
        // A quarter of the memory, a guest's share, has room for the largest list of files.
        let memory = 4 * LARGEST_LIST;
        let limits =
            Limits { connections: CONNECTIONS, per_peer: PER_PEER, memory, request_timeout };
        let api = Arc::new(Api(Arc::clone(&backend)));
        let server = Server::start("platform", endpoints, api, limits)
            .map_err(|source| Error::Server { source })?;
        let mut platform =
            Self { backend, server, threads: Vec::new(), is_ended: false, addresses };
        // 3, and if one does not start the drop ends the others.
        let backend = Arc::clone(&platform.backend);
        platform.keep(TIMER, base::thread::spawn(TIMER, move || timer::run(&backend)))?;
        let backend = Arc::clone(&platform.backend);
        let work = backend.notifier.subscribe_placer();
        let place = base::thread::spawn(PLACE, move || placement::run(&backend, &work));
        platform.keep(PLACE, place)?;
        #[cfg(feature = "postgres")]
        if platform.backend.db.is_shared() {
            platform.keep(WAKEUP, forward(&platform.backend))?;
        }
        log::debug!("platform serves; addresses={:?}", platform.addresses);
        Ok(platform)
    }

    fn keep(&mut self, name: &'static str, thread: io::Result<JoinHandle<()>>) -> Result<()> {
        self.threads.push((name, thread.map_err(|source| Error::Thread { name, source })?));
        Ok(())
    }

    /// The addresses for runners and guests.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The URLs of these addresses.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.backend.config.tls.is_some() { "https" } else { "http" };
        self.addresses.iter().map(|address| format!("{scheme}://{address}")).collect()
    }

    /// The token for runners of other processes.
    #[must_use]
    pub fn runner_token(&self) -> &str {
        &self.backend.runner_token
    }

    /// The file with the token; only this user can read it.
    #[must_use]
    pub fn runner_token_file(&self) -> PathBuf {
        self.backend.folder.runner_token()
    }

    /// A source of jobs for a runner in this process.
    pub fn source(&self) -> Result<Source> {
        let first = self.urls().into_iter().next();
        let base = self.backend.config.guest_url.clone().or(first).unwrap_or_default();
        Source::open(Arc::clone(&self.backend), base.trim_end_matches('/').to_owned())
    }

    /// Stops the server. Requests under way may finish; long polls end. The state folder stays
    /// locked until all sources are dropped.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_ended, true) {
            return Ok(());
        }
        // A long poll would keep the server from stopping.
        self.backend.notifier.stop();
        self.backend.db.stop();
        let mut ended = Ok(());
        for (name, thread) in self.threads.drain(..) {
            ended = ended.and(thread.join().map_err(|_| Error::Panicked { name }));
        }
        let served = self
            .server
            .stop(self.backend.config.stop_grace)
            .map_err(|source| Error::Server { source });
        served.and(ended)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("cannot stop the platform; error={}", chain(&error));
        }
    }
}

/// Starts the thread that forwards notifications between the platforms of a database.
#[cfg(feature = "postgres")]
fn forward(backend: &Arc<Backend>) -> io::Result<JoinHandle<()>> {
    let outbound = backend.notifier.forward()?;
    let backend = Arc::clone(backend);
    base::thread::spawn(WAKEUP, move || crate::wakeup::run(&backend, &outbound))
}

/// Removes old jobs and unreferenced content where no platform serves the state folder. Otherwise use
/// [`Client::prune`](crate::Client::prune).
pub fn prune(config: Config, keep: Duration) -> Result<Pruned> {
    Backend::open(config)?.prune(keep)
}

fn listen(config: &Config) -> Result<(Vec<Endpoint>, Vec<SocketAddr>)> {
    let tls = config.tls.as_ref().map(|(certificate, key)| tls::config(certificate, key));
    let tls = tls.transpose().map_err(|source| Error::Tls { source: Box::new(source) })?;
    let mut endpoints = Vec::new();
    let mut bound = Vec::new();
    for &address in &config.listen {
        let fail = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(fail)?;
        bound.push(listener.local_addr().map_err(fail)?);
        endpoints.push(match &tls {
            Some(tls) => Endpoint::Tls(listener, Arc::clone(tls)),
            None => Endpoint::Tcp(listener),
        });
    }
    Ok((endpoints, bound))
}

/// Listens on the operator's socket. The folder's lock is held, so an existing socket is stale.
fn listen_for_operator(path: &Path) -> Result<UnixListener> {
    folder::remove(path)?;
    let listener = folder::at_socket(path, |name| UnixListener::bind(name));
    let listener = listener.map_err(file("listen on", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(file("protect", path))?;
    Ok(listener)
}
