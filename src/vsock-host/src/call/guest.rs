//! The handle of a guest.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use vsock_proto::{BootId, Exec, GuestState, HostBody, Read, Ready, Write};

use super::Call;
use super::execution::Execution;
use super::handle::Handle;
use super::port_request::{Destination, Failed, ForwardRequest};
use super::remote::Command;
use super::request::End;
use super::tree::{ReadTree, WriteTree};
use crate::deadline::Deadline;
use crate::error::Halt;
use crate::{Error, Phase, Result};

/// A guest that is ready for requests. Clones are the same guest; when the last one and the last
/// request of it are dropped, the connection closes.
///
/// Any thread may call anything at any time. A call that waits ends at its deadline, and at once
/// when the guest is lost.
#[derive(Debug, Clone)]
pub struct Guest {
    handle: Arc<Handle>,
}

impl Guest {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle: Arc::new(handle) }
    }

    /// Which boot of the guest this is.
    pub fn boot_id(&self) -> BootId {
        self.handle.connection.identity.boot_id
    }

    /// The information that the guest sent about itself.
    pub fn ready(&self) -> &Ready {
        &self.handle.connection.identity.ready
    }

    /// The reason that the guest's previous service ended, if there was one.
    pub fn previous_failure(&self) -> Option<&str> {
        self.handle.connection.identity.previous_failure.as_deref()
    }

    /// Measures the round-trip time to the guest.
    pub fn ping(&self, deadline: Instant) -> Result<Duration> {
        let deadline = Deadline::new(deadline);
        self.request(HostBody::Ping, &deadline, || Phase::Ping)?;
        Ok(deadline.elapsed())
    }

    /// Starts a command; returns once it runs, or could not be started, which its exit says.
    pub fn exec(&self, exec: Exec, deadline: Instant) -> Result<Execution> {
        Execution::start(&self.handle, exec, &Deadline::new(deadline))
    }

    /// Starts to write a tree of files.
    pub fn write(&self, write: Write, deadline: Instant) -> Result<WriteTree> {
        WriteTree::start(&self.handle, write, &Deadline::new(deadline))
    }

    /// Starts to read a tree of files.
    pub fn read(&self, read: Read, deadline: Instant) -> Result<ReadTree> {
        ReadTree::start(&self.handle, read, &Deadline::new(deadline))
    }

    /// Connects to a TCP port in the guest. The stream behaves like a connection of
    /// TCP; it closes when the guest is lost.
    pub fn connect(&self, port: u16, deadline: Instant) -> Result<UnixStream> {
        let phase = || Phase::Connect { port };
        let since = Instant::now();
        let (ours, theirs) = UnixStream::pair().map_err(|source| Error::Adopt { source })?;
        let (reply, answer) = bounded(1);
        // A caller that no longer waits drops its end, which closes the connection.
        let opened = Box::new(move |result| drop(reply.send(result)));
        let to = Destination::Guest(self.handle.connection.token());
        let kept = Box::new(Arc::clone(&self.handle));
        let request = ForwardRequest { to, port, socket: theirs.into(), opened, kept };
        self.handle.remote.send(Command::Forward(request))?;
        match answer.recv_deadline(deadline) {
            Ok(Ok(())) => Ok(ours),
            Ok(Err(Failed::Refused(source))) => Err(Error::Refused { phase: phase(), source }),
            Ok(Err(Failed::Lost(source))) => Err(Error::Lost { phase: phase(), source }),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::TimedOut { after: since.elapsed(), phase: phase() })
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::Stopped),
        }
    }

    /// Sets clock, entropy and names.
    pub fn set_state(&self, state: GuestState, deadline: Instant) -> Result<()> {
        let phase = || Phase::SetState;
        self.request(HostBody::SetState(state), &Deadline::new(deadline), phase)
    }

    /// Makes the guest flush its files and then send nothing until the next request.
    pub fn quiesce(&self, deadline: Instant) -> Result<()> {
        self.request(HostBody::Quiesce, &Deadline::new(deadline), || Phase::Quiesce)
    }

    /// Holds what is sent to the guest until [`Guest::release`], and waits until it has taken all before: its processors can
    /// be stopped then.
    pub fn hold(&self, deadline: Instant) -> Result<()> {
        let halted = |halt: Halt| halt.during(Phase::Ping);
        let call = Call::start_last(&self.handle, HostBody::Ping).map_err(halted)?;
        call.end(&Deadline::new(deadline)).map(drop).map_err(halted)
    }

    /// Sends what was held. The guest runs again.
    pub fn release(&self) {
        self.handle.connection.outbox.release();
    }

    /// Makes the guest end its processes and power off; returns when it has begun to.
    pub fn shutdown(&self, deadline: Instant) -> Result<()> {
        self.request(HostBody::Shutdown, &Deadline::new(deadline), || Phase::Shutdown)
    }

    /// Serves `client` as if it were connected to the guest itself, until either goes.
    pub fn relay(&self, client: UnixStream) -> Result<()> {
        self.handle.connection.check().map_err(|halt| halt.during(Phase::Relay))?;
        let guest = self.handle.connection.token();
        self.handle.remote.send(Command::Relay { guest, client })
    }

    /// A channel that disconnects when the connection ends; it never has a message.
    pub fn closed(&self) -> Receiver<()> {
        self.handle.connection.closed()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.handle.connection.is_closed()
    }

    /// Ends the connection, and at once every call on it. What has been sent still arrives, if
    /// the guest takes it soon.
    pub fn close(&self) {
        self.handle.close();
    }

    /// A request that is answered by `Done` alone.
    fn request(
        &self,
        body: HostBody<'_>,
        deadline: &Deadline,
        phase: impl Fn() -> Phase,
    ) -> Result<()> {
        let halted = |halt: Halt| halt.during(phase());
        let call = Call::start(&self.handle, body, deadline).map_err(halted)?;
        match call.end(deadline).map_err(halted)? {
            End::Failed(source) => Err(Error::Refused { phase: phase(), source }),
            End::Done | End::Exit(_) => Ok(()),
        }
    }
}
