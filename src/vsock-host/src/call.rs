//! The callers' side: the handles of the public interface, and the state that their requests share
//! with the reactor. Callers reach the reactor by commands only.

mod connection;
mod execution;
mod guest;
mod handle;
mod inbox;
mod listener;
mod port_request;
mod ports;
mod queue;
mod remote;
mod request;
mod tree;

use std::sync::Arc;

use base::event::Event as Wake;
use vsock_proto::{HostBody, RequestId};

pub(crate) use self::connection::{Connection, Identity, Route};
pub use self::execution::{Event, Execution, Output};
pub use self::guest::Guest;
pub(crate) use self::handle::Handle;
pub(crate) use self::inbox::Delivery;
pub use self::listener::Listener;
pub(crate) use self::port_request::{Destination, Failed, ForwardRequest, Opened, PortWatch};
pub use self::ports::Ports;
use self::queue::Item;
pub(crate) use self::remote::{Command, Remote, WAKER};
use self::request::{End, Request, State};
pub use self::tree::{ReadTree, TreeItem, WriteTree};
use crate::deadline::Deadline;
use crate::error::Halt;

/// A request under way. Dropped before its end, it is cancelled.
#[derive(Debug)]
pub(crate) struct Call {
    handle: Arc<Handle>,
    id: RequestId,
    request: Arc<Request>,
}

/// The result of [`Call::reserve`].
#[derive(Debug)]
pub(crate) enum Reserved {
    /// Up to this many bytes may be sent.
    Granted(u64),
    /// The request has ended: no bytes may be sent.
    Ended(End),
}

impl Call {
    /// Sends the first message of a request.
    pub(crate) fn start(
        handle: &Arc<Handle>,
        body: HostBody<'_>,
        deadline: &Deadline,
    ) -> Result<Self, Halt> {
        let connection = &handle.connection;
        let request = Arc::new(Request::new(&body));
        let id = connection.next_id();
        connection.add_route(id, Route::Call(Arc::clone(&request)))?;
        if let Err(halt) = connection.send(id, body, deadline) {
            connection.remove_route(id);
            return Err(halt);
        }
        Ok(Self { handle: Arc::clone(handle), id, request })
    }

    /// As [`Call::start`], and holds all further messages to the guest.
    pub(crate) fn start_last(handle: &Arc<Handle>, body: HostBody<'_>) -> Result<Self, Halt> {
        let connection = &handle.connection;
        let request = Arc::new(Request::new(&body));
        let id = connection.next_id();
        connection.add_route(id, Route::Call(Arc::clone(&request)))?;
        if let Err(halt) = connection.send_last(id, body) {
            connection.remove_route(id);
            return Err(halt);
        }
        Ok(Self { handle: Arc::clone(handle), id, request })
    }

    /// Sends a further message.
    pub(crate) fn send(&self, body: HostBody<'_>, deadline: &Deadline) -> Result<(), Halt> {
        self.handle.connection.send(self.id, body, deadline)
    }

    pub(crate) fn wait<R>(
        &self,
        deadline: &Deadline,
        take: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<R, Halt> {
        self.request.wait(deadline, take)
    }

    /// Sets `event` at each answer of the guest, while it lives.
    pub(crate) fn notify(&self, event: &Arc<Wake>) {
        self.request.notify(event);
    }

    /// Waits for the guest's final answer.
    pub(crate) fn end(&self, deadline: &Deadline) -> Result<End, Halt> {
        self.wait(deadline, |state| state.end.clone())
    }

    /// Waits for the next item, and the end when all are taken. Gives credit back.
    pub(crate) fn next(&self, deadline: &Deadline) -> Result<Result<Item, End>, Halt> {
        let next = self.wait(deadline, |state| match state.queue.pop() {
            // A request that has ended needs no credit, and a quiesced guest must stay silent.
            Some((item, grant)) => Some(Ok((item, grant.filter(|_| state.end.is_none())))),
            None => state.end.clone().map(Err),
        })?;
        let (item, grant) = match next {
            Ok(popped) => popped,
            Err(end) => return Ok(Err(end)),
        };
        if let Some((stream, count)) = grant {
            // At most a window's worth of them are on their way, so they need not wait for
            // room. If the guest is gone, then the next call says so.
            let credit = HostBody::Credit(stream, count);
            let _ = self.handle.connection.send_now(self.id, credit);
        }
        Ok(Ok(item))
    }

    /// Waits for credit for at least `least` bytes, and takes credit for at most `most`.
    pub(crate) fn reserve(
        &self,
        least: u64,
        most: u64,
        deadline: &Deadline,
    ) -> Result<Reserved, Halt> {
        self.wait(deadline, |state| {
            if let Some(end) = &state.end {
                return Some(Reserved::Ended(end.clone()));
            }
            let count = state.input.available().min(most);
            if count < least {
                return None;
            }
            state.input.sent(count);
            Some(Reserved::Granted(count))
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let connection = &self.handle.connection;
        connection.remove_route(self.id);
        if !self.request.with(|state| state.is_over()) {
            // One for each request at most; if the guest is gone, then so is the request.
            let _ = connection.send_now(self.id, HostBody::Cancel);
        }
    }
}
