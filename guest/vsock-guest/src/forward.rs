//! Requests of the host for the guest's ports.

use std::time::Instant;

use vsock_proto::{Connect, GuestBody, RequestId, WatchPorts};

use crate::Result;
use crate::connection::Connection;
use crate::listeners::PortWatch;
use crate::serve::Server;

impl Server<'_> {
    pub(crate) fn connect(&mut self, id: RequestId, request: Connect) -> Result<()> {
        match Connection::begin(request) {
            Ok(connection) => {
                self.connections.insert(id, connection);
                self.go_on(id)
            }
            Err(failure) => self.link.send(id, GuestBody::Failed(failure)),
        }
    }

    /// Lets a connection go on as far as it can.
    pub(crate) fn go_on(&mut self, id: RequestId) -> Result<()> {
        let is_mute = self.is_mute();
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        if connection.go_on(id, &mut self.link, &mut self.buffer, is_mute)? {
            self.connections.remove(&id);
        }
        Ok(())
    }

    pub(crate) fn watch_ports(&mut self, id: RequestId, request: &WatchPorts) -> Result<()> {
        self.port_watches.insert(id, PortWatch::new(request, Instant::now()));
        self.look_at_ports()
    }

    /// The same before a command's output goes out, as that may say that a port is ready.
    pub(crate) fn look_before_output(&mut self) -> Result<()> {
        let now = Instant::now();
        self.port_watches.values_mut().for_each(|watch| watch.hasten(now));
        self.look_at_ports()
    }

    /// Tells the host which ports have listeners, where that has changed.
    pub(crate) fn look_at_ports(&mut self) -> Result<()> {
        if self.is_mute() {
            return Ok(());
        }
        let now = Instant::now();
        for (id, watch) in &mut self.port_watches {
            if let Some(listening) = watch.look(now) {
                self.link.send(*id, GuestBody::Listening(listening))?;
            }
        }
        Ok(())
    }
}
