//! A listener of the loopback interface whose connections go to a port of a sandbox.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::error::chain;
use base::event::Event;
use crossbeam_channel::TryRecvError;
use http_server::Socket;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox_api::{ManagedSandbox, Sandboxes, forward};

/// The most connections of a port; more wait in the backlog.
const MOST: usize = 64;

/// How often the listener looks whether its sandbox has ended, in milliseconds.
const LOOK: u16 = 1000;

/// How long the sandbox may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// A listener. Dropping it closes it and its connections.
pub(super) struct Forwarder {
    address: SocketAddr,
    sandbox: Arc<ManagedSandbox>,
    stop: Arc<Event>,
    thread: Option<JoinHandle<()>>,
}

/// What a listener and its connections work on.
struct Target {
    sandboxes: Arc<Sandboxes>,
    sandbox: Arc<ManagedSandbox>,
    port: u16,
}

impl Forwarder {
    pub(super) fn start(
        sandboxes: Arc<Sandboxes>,
        sandbox: Arc<ManagedSandbox>,
        port: u16,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(Event::new()?);
        let target = Arc::new(Target { sandboxes, sandbox: Arc::clone(&sandbox), port });
        let stopped = Arc::clone(&stop);
        let run = move || accept(&listener, &target, &stopped);
        let thread = Some(base::thread::spawn(format!("publish-{port}"), run)?);
        Ok(Self { address, sandbox, stop, thread })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.sandbox)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.set();
        self.thread.take().map(base::thread::join);
    }
}

fn has_ended(sandbox: &ManagedSandbox) -> bool {
    matches!(sandbox.ended().try_recv(), Err::<Infallible, _>(TryRecvError::Disconnected))
}

/// Accepts connections until the end of the sandbox, or until `stop`.
fn accept(listener: &TcpListener, target: &Arc<Target>, stop: &Event) {
    let mut connections: Vec<(Socket, JoinHandle<()>)> = Vec::new();
    let mut count = 0;
    while !has_ended(&target.sandbox) {
        connections.retain(|(_, thread)| !thread.is_finished());
        let is_full = connections.len() >= MOST;
        match wait(listener, stop, is_full) {
            Ready::Stop => break,
            Ready::Nothing => continue,
            Ready::Connection => {}
        }
        let Ok((client, _)) = listener.accept() else { continue };
        count += 1;
        let socket = Socket::from(client);
        let (target, client) = (Arc::clone(target), socket.clone());
        let connect = move || connect(&target, &client);
        match base::thread::spawn(format!("published-{count}"), connect) {
            Ok(thread) => connections.push((socket, thread)),
            Err(error) => log::warn!("cannot start the thread of a connection; error={error}"),
        }
    }
    for (socket, _) in &connections {
        socket.shutdown(Shutdown::Both);
    }
    for (_, thread) in connections {
        base::thread::join(thread);
    }
}

enum Ready {
    Stop,
    Connection,
    Nothing,
}

fn wait(listener: &TcpListener, stop: &Event, is_full: bool) -> Ready {
    let interest = if is_full { PollFlags::empty() } else { PollFlags::POLLIN };
    let mut fds =
        [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), interest)];
    match poll(&mut fds, PollTimeout::from(LOOK)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => {
            log::error!("cannot wait for connections; error={error}");
            return Ready::Stop;
        }
    }
    match fds.map(|fd| fd.any().unwrap_or(false)) {
        [true, _] => Ready::Stop,
        [_, true] => Ready::Connection,
        _ => Ready::Nothing,
    }
}

/// Connects a client to the port, and forwards until one of them ends.
fn connect(target: &Target, client: &Socket) {
    let running = match target.sandboxes.enter(&target.sandbox) {
        Ok(running) => running,
        Err(error) => return log::debug!("a connection was refused; error={}", chain(&error)),
    };
    let guest = match running.connect(target.port, Instant::now() + CONNECT) {
        Ok(guest) => guest,
        // The client sees the connection's end, as it would in front of any closed port.
        Err(error) => return log::debug!("a connection was refused; error={}", chain(&error)),
    };
    let closed = Arc::clone(running.closed());
    drop(running);
    forward(client, &guest, Vec::new(), &closed);
}
