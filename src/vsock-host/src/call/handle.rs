//! What keeps a guest's connection open.

use std::sync::Arc;

use super::connection::Connection;
use super::remote::{Command, Remote};
use crate::Loss;

/// Keeps a connection open: all handles share one, and dropping the last closes the connection.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) connection: Arc<Connection>,
    pub(crate) remote: Remote,
}

impl Handle {
    /// Ends all calls. The reactor then sends the unsent bytes and closes the connection.
    pub(crate) fn close(&self) {
        self.connection.fail(Loss::ClosedHere);
        // Without a reactor the connection has ended.
        let _ = self.remote.send(Command::Close(self.connection.token()));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}
