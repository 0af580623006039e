//! What passes between a VM and the host by way of this process: questions for names, published
//! ports, and services of the host. No rule of the host's is needed for that, and nothing of it outlives the process.
//!
//! ```text
//!  guest ── 192.168.241.1:53 ──▶ sockets in the namespace ─┐
//!           192.168.241.1:8700 ─▶ socket in the namespace ──┤ ──▶ a service of the host
//!                                                          │ thread `relay` ──▶ the host's resolver
//!  host's user ── 127.0.0.1:8080 ──▶ socket of the host ───┘ ──▶ socket in the namespace ──▶ guest
//! ```
//!
//! One thread serves all VMs of the process, and sleeps in `mio::Poll`.
//!
//! | file | what |
//! |---|---|
//! | `reactor.rs` | the thread: which socket belongs to what |
//! | `name.rs` | questions for names |
//! | `port.rs` | a published port, or one of the gateway |
//! | `door.rs` | a socket where connections come in |
//! | `stream.rs` | two connections that are one |
//! | `resolver.rs` | the host's name servers |
//! | `question.rs` | what a question for a name is |
//! | `drops.rs` | what was dropped |

mod door;
mod drops;
mod name;
mod port;
mod question;
mod reactor;
mod resolver;
mod stream;

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::{Poll, Waker};
use sandbox::EgressObserver;

use crate::drop_log::DropLog;
use crate::namespace::Namespace;
use crate::slot::NameSockets;
use crate::{Error, Result};

const THREAD: &str = "relay";

/// The owner of the thread. Dropping it ends all that is passed on.
#[derive(Debug)]
pub(crate) struct Relay {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// For those who have something to be passed on.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    requests: Sender<Request>,
    waker: Arc<Waker>,
}

/// Something that is passed on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    handle: Handle,
    id: u64,
}

/// A guest's own way to its ports, which does not need its network.
pub trait GuestPorts: Send + Sync {
    /// Joins a connection with a port of the guest's; resets it where nothing listens, on 127.0.0.1
    /// neither. `kept` is dropped when it has ended. Does not wait.
    fn connect(&self, port: u16, connection: TcpStream, kept: Box<dyn Any + Send>);

    /// Has `tell` called with those of `ports` that have listeners in the guest, at first and
    /// whenever that changes. The next call ends it. Does not wait.
    fn watch(&self, ports: Vec<u16>, tell: Box<dyn Fn(&[u16]) + Send>);
}

/// Where connections to a port lead.
#[derive(Debug)]
pub(crate) struct Target {
    /// Of the guest; the host's if none.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) address: SocketAddr,
}

/// What the thread is asked for.
enum Request {
    /// Pass on from now on; the number to end it by is sent back.
    Names(NameSockets, Option<Arc<dyn EgressObserver>>, Sender<u64>),
    Drops(DropLog, Arc<dyn EgressObserver>, Sender<u64>),
    Port(TcpListener, Target, Sender<u64>),
    /// A port's guest has a way of its own to it.
    Reach {
        id: u64,
        ports: Arc<dyn GuestPorts>,
        handle: Handle,
    },
    /// Take a port's connections, or refuse them.
    Listen {
        id: u64,
        wanted: bool,
    },
    /// A connection that went by the guest's own way has ended.
    Left {
        id: u64,
    },
    /// Pass on no more; the sender is dropped when all of it is closed.
    End {
        id: u64,
        _done: Sender<()>,
    },
    Stop,
}

impl Relay {
    /// With the host's name servers as a file has them.
    pub(crate) fn start(resolv_conf: PathBuf) -> Result<Self> {
        let failed = |source| Error::Poll { source };
        let poll = Poll::new().map_err(failed)?;
        let waker = Waker::new(poll.registry(), reactor::WAKER).map_err(failed)?;
        let (requests, requests_rx): (_, Receiver<Request>) = unbounded();
        let thread = Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || reactor::run(poll, &requests_rx, resolv_conf))
            .map_err(|source| Error::Thread { name: THREAD, source })?;
        let handle = Handle { requests, waker: Arc::new(waker) };
        Ok(Self { handle, thread: Some(thread) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.handle.ask(Request::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("{}", Error::Panicked { name: THREAD });
        }
    }
}

impl Handle {
    /// Answers the questions that arrive at these sockets, as the host's name servers do; those alone
    /// that `watch` lets be asked.
    pub(crate) fn answer_names(
        &self,
        sockets: &NameSockets,
        watch: Option<Arc<dyn EgressObserver>>,
    ) -> Result<Registration> {
        let sockets = sockets.duplicate()?;
        self.register(|reply| Request::Names(sockets, watch, reply))
    }

    /// Tells of what is dropped.
    pub(crate) fn tell_drops(
        &self,
        log: DropLog,
        watch: Arc<dyn EgressObserver>,
    ) -> Result<Registration> {
        self.register(|reply| Request::Drops(log, watch, reply))
    }

    /// Passes on what connects to `listener`.
    pub(crate) fn pass_on(&self, listener: TcpListener, to: Target) -> Result<Registration> {
        self.register(|reply| Request::Port(listener, to, reply))
    }

    /// Gives published ports their guest's own way, which tells from now on which of them are listened
    /// to: the others are refused.
    pub(crate) fn reach(&self, published: &[(u16, Registration)], guest: &Arc<dyn GuestPorts>) {
        for (_, registration) in published {
            let (ports, handle) = (Arc::clone(guest), self.clone());
            self.ask(Request::Reach { id: registration.id, ports, handle });
        }
        let ids: Vec<(u16, u64)> =
            published.iter().map(|(port, registration)| (*port, registration.id)).collect();
        let ports = published.iter().map(|(port, _)| *port).collect();
        let handle = self.clone();
        let tell = move |listening: &[u16]| {
            for (port, id) in &ids {
                handle.ask(Request::Listen { id: *id, wanted: listening.contains(port) });
            }
        };
        guest.watch(ports, Box::new(tell));
    }

    fn register(&self, request: impl FnOnce(Sender<u64>) -> Request) -> Result<Registration> {
        let (reply_tx, reply) = bounded(1);
        self.ask(request(reply_tx));
        let id = reply.recv().map_err(|_| Error::Panicked { name: THREAD })?;
        Ok(Registration { handle: self.clone(), id })
    }

    fn ask(&self, request: Request) {
        // A thread that is gone needs no asking.
        let _ = self.requests.send(request);
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the relay; error={error}");
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (done_tx, done) = bounded::<()>(0);
        self.handle.ask(Request::End { id: self.id, _done: done_tx });
        let _ = done.recv();
    }
}

impl NameSockets {
    fn duplicate(&self) -> Result<Self> {
        let failed = |source: io::Error| Error::Socket { kind: "name server's", source };
        let udp = self.udp.try_clone().map_err(failed)?;
        let tcp = self.tcp.try_clone().map_err(failed)?;
        Ok(Self { udp, tcp })
    }
}
