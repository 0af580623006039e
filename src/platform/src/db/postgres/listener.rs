//! A connection that hears the notifications of other processes, and sends those of this one.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use base::deadline::poll_until;
use base::event::Event;
use nix::poll::{PollFd, PollFlags};

use super::client::Client;
use super::error::PgError;
use super::target::Target;

/// The channel in the database.
const CHANNEL: &str = "sandbox_runner";

/// How long a statement of this connection may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// A connection that listens.
pub(crate) struct Listener(Client);

impl Listener {
    pub(super) fn connect(target: &Target) -> Result<Self, PgError> {
        let deadline = Instant::now() + DEADLINE;
        let mut client = Client::connect(target, deadline)?;
        client.simple(&format!("LISTEN {CHANNEL}"), deadline)?;
        Ok(Self(client))
    }

    /// Sends a payload of at most 7999 bytes to all that listen.
    pub(super) fn send(&mut self, payload: &str) -> Result<(), PgError> {
        let deadline = Instant::now() + DEADLINE;
        let notify = "SELECT pg_notify(?1, ?2)";
        self.0.run(notify, &[&CHANNEL, &payload], deadline).map(drop)
    }

    /// The payloads of other processes. Waits until there is one, `event` is set, or the deadline.
    pub(super) fn wait(
        &mut self,
        event: &Event,
        deadline: Instant,
    ) -> Result<Vec<String>, PgError> {
        let heard = self.0.notifications()?;
        if !heard.is_empty() {
            return Ok(self.of_others(heard));
        }
        let is_readable = {
            let Some(socket) = self.0.socket() else { return Err(self.0.lost()) };
            let mut fds = [
                PollFd::new(socket, PollFlags::POLLIN),
                PollFd::new(event.as_fd(), PollFlags::POLLIN),
            ];
            poll_until(&mut fds, Some(deadline))
                .map_err(|errno| PgError::Lost { message: errno.to_string() })?;
            fds[0].any().unwrap_or(false)
        };
        if !is_readable {
            return Ok(Vec::new());
        }
        let heard = self.0.notifications()?;
        if !self.0.is_idle() {
            return Err(self.0.lost());
        }
        Ok(self.of_others(heard))
    }

    fn of_others(&self, heard: Vec<super::sys::RawNotification>) -> Vec<String> {
        let own = self.0.server_process();
        let others = heard.into_iter().filter(|one| one.sender != own);
        others.map(|one| one.payload).collect()
    }
}
