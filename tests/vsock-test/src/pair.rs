//! Both ends of a link.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use vsock_guest::{Config, End, Service, serve};
use vsock_host::{Guest, Reactor};
use vsock_proto::BootId;

use crate::soon;

/// A guest end that serves one connection on a thread of its own, and the host's handle for it.
/// Dropping it closes the connection and waits for the guest end.
pub struct Pair {
    /// The host's handle.
    pub guest: Guest,
    serving: Option<JoinHandle<vsock_guest::Result<End>>>,
    /// The one that this pair alone uses; it outlives the guest end's last words.
    _reactor: Option<Reactor>,
}

/// More descriptors of a pair's two sockets: what is written into them comes out at the other
/// end among what the pair itself sends, and closing the wire is up to the test.
pub struct Tap {
    /// Its bytes come out at the guest end.
    pub to_guest: UnixStream,
    /// Its bytes come out at the host end.
    pub to_host: UnixStream,
}

/// How a guest end without rights over its machine is configured. It knows no accounts: so its
/// commands run as the user of the tests, and start in `/`, which every user may enter.
pub fn config() -> Config {
    Config {
        boot_id: BootId([7; 16]),
        previous_failure: None,
        cgroups: None,
        root: PathBuf::from("/nowhere"),
        owns_kernel: false,
        secret: None,
    }
}

/// Serves `connection` on a thread, after `prepare` has run on it.
pub fn serve_on(
    connection: UnixStream,
    config: Config,
    prepare: impl FnOnce() + Send + 'static,
) -> JoinHandle<vsock_guest::Result<End>> {
    thread::Builder::new()
        .name("guest".into())
        .spawn(move || {
            prepare();
            serve(connection.into(), &mut Service::new(config))
        })
        .unwrap()
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// With a reactor of its own.
    pub fn new() -> Self {
        Self::with(config())
    }

    /// With a reactor of its own, and this configuration.
    pub fn with(config: Config) -> Self {
        Self::prepared(config, || {})
    }

    /// The same; `prepare` runs on the guest end's thread first.
    pub fn prepared(config: Config, prepare: impl FnOnce() + Send + 'static) -> Self {
        let reactor = Reactor::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = serve_on(theirs, config, prepare);
        let guest = reactor.adopt(ours, soon()).unwrap();
        Self { guest, serving: Some(serving), _reactor: Some(reactor) }
    }

    /// One of many guests of a reactor.
    pub fn on(reactor: &Reactor) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = serve_on(theirs, config(), || {});
        let guest = reactor.adopt(ours, soon()).unwrap();
        Self { guest, serving: Some(serving), _reactor: None }
    }

    /// With descriptors of both sockets for the test.
    pub fn tapped() -> (Self, Tap) {
        let reactor = Reactor::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let tap = Tap { to_guest: ours.try_clone().unwrap(), to_host: theirs.try_clone().unwrap() };
        let serving = serve_on(theirs, config(), || {});
        let guest = reactor.adopt(ours, soon()).unwrap();
        (Self { guest, serving: Some(serving), _reactor: Some(reactor) }, tap)
    }

    /// How the guest end ends; by then none of its commands runs.
    pub fn end(mut self) -> vsock_guest::Result<End> {
        self.serving.take().unwrap().join().unwrap()
    }

    /// Closes the connection, and then the same.
    pub fn close(self) -> vsock_guest::Result<End> {
        self.guest.close();
        self.end()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.guest.close();
        if let Some(serving) = self.serving.take() {
            // The test has failed already, or does not care how this ends.
            drop(serving.join());
        }
    }
}
