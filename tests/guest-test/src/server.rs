//! An HTTP server, usually on loopback. It has a thread per connection and records all requests.
//! Dropping it ends it.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::sync::{Condvar, Mutex, MutexGuard};
use base::thread;

use crate::authority::Identity;
use crate::http::{Reply, Request};

/// A test that waits longer for a request fails.
const TIMEOUT: Duration = Duration::from_secs(60);

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// An HTTP server with a handler function.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    scheme: &'static str,
}

struct Shared {
    handler: Box<Handler>,
    state: Mutex<State>,
    changed: Condvar,
    tls: Option<Arc<rustls::ServerConfig>>,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    connections: Vec<TcpStream>,
    /// A client broke its connection, or rejected the certificate.
    had_broken_connection: bool,
    ended: bool,
}

impl Server {
    /// Starts a server on a free port.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        Server::serve(loopback(), None, handler)
    }

    /// Starts a TLS server with this certificate.
    pub fn start_tls(
        identity: &Identity,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        Server::serve(loopback(), Some(identity), handler)
    }

    /// Starts a server on a listener, with TLS if there is an identity.
    pub fn serve(
        listener: TcpListener,
        identity: Option<&Identity>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let handler: Box<Handler> = Box::new(handler);
        let tls = identity.map(Identity::server_config);
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared =
            Arc::new(Shared { handler, state: Mutex::default(), changed: Condvar::new(), tls });
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn("server", move || accepting.accept(&listener));
        Server { address, shared, thread: Some(thread.unwrap()), scheme }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The URL with the host name `localhost`, for which certificates are issued.
    pub fn named_url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The requests to a path so far.
    pub fn requests_to(&self, target: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.target() == target).collect()
    }

    /// Waits until `enough` is true of the requests.
    pub fn wait_for(&self, enough: impl Fn(&[Request]) -> bool) {
        self.wait_until(|state| enough(&state.requests));
    }

    /// Waits until a client breaks its connection. With TLS, a client that does not trust the server does.
    pub fn wait_for_broken_connection(&self) {
        self.wait_until(|state| state.had_broken_connection);
    }

    fn wait_until(&self, enough: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        let mut state = self.shared.state();
        while !enough(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the condition did not become true in time");
            state = self.shared.changed.wait_timeout(state, left);
        }
    }

    /// Closes all connections, like a server that restarts.
    pub fn drop_connections(&self) {
        for connection in self.shared.state().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Closes a connection at the end of its thread, also if the handler panics. Dropping the stream is not
/// enough: `State` has a clone.
struct Closing(TcpStream);

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
        self.drop_connections();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A test's condition may panic while it holds the lock. `base::sync::Mutex` is not poisoned by that: a
    /// second panic, in `drop`, would abort all tests of the program.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads = Vec::new();
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            let mut state = self.state();
            if state.ended {
                break;
            }
            state.connections.push(connection.try_clone().unwrap());
            drop(state);
            let shared = Arc::clone(self);
            threads.push(thread::spawn("connection", move || shared.serve(connection)).unwrap());
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn serve(&self, connection: TcpStream) {
        connection.set_nodelay(true).unwrap();
        let _closing = Closing(connection.try_clone().unwrap());
        match &self.tls {
            None => self.converse(connection),
            Some(config) => {
                let tls = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                self.converse(rustls::StreamOwned::new(tls, connection));
            }
        }
    }

    fn converse(&self, stream: impl Read + Write) {
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        loop {
            let request = match Request::read(&mut stream) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                // A broken connection ends this loop only, not the server.
                Err(_) => {
                    self.state().had_broken_connection = true;
                    self.changed.notify_all();
                    break;
                }
            };
            self.state().requests.push(request.clone());
            let reply = (self.handler)(&request);
            self.changed.notify_all();
            let hold = || {
                let mut state = self.state();
                while !state.ended {
                    state = self.changed.wait(state);
                }
            };
            if !reply.write(stream.get_mut(), hold).unwrap_or(false) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_server_works_and_ends_after_a_condition_panicked_with_the_lock() {
        let server = Server::start(|_| Reply::status(200));
        let panicked = catch_unwind(AssertUnwindSafe(|| server.wait_for(|_| panic!("on purpose"))));
        assert!(panicked.is_err());

        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut reply = [0; 12];
        client.read_exact(&mut reply).unwrap();

        assert_eq!(&reply, b"HTTP/1.1 200");
        assert_eq!(server.requests().len(), 1);
        drop(server);
    }

    #[test]
    fn a_panic_of_the_handler_closes_its_connection() {
        let server = Server::start(|_| panic!("on purpose"));
        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        assert_eq!(reply, b"");
    }
}
