//! A pool of connections. A broken one is replaced when it is next needed.

use std::cell::RefCell;
use std::time::Instant;

use base::sync::{Condvar, Mutex};

use super::client::Client;
use super::error::PgError;
use super::target::Target;

/// The most connections of a process, besides the one that listens. More would wait for the same disk.
const MOST: usize = 16;

#[derive(Default)]
struct State {
    idle: Vec<Client>,
    /// Connections that exist or are being made.
    open: usize,
    stopped: bool,
}

/// The connections to one database.
pub(super) struct Pool {
    target: Target,
    state: Mutex<State>,
    changed: Condvar,
}

impl Pool {
    pub(super) fn new(target: Target) -> Self {
        Self { target, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// A connection, as soon as one is free.
    pub(super) fn take(&self, deadline: Instant) -> Result<Lease<'_>, PgError> {
        let mut lease = self.reserve(deadline)?;
        // The server may have closed it since.
        if !lease.client.as_mut().is_some_and(|client| client.get_mut().is_reusable()) {
            lease.client = None;
            lease.client = Some(Client::connect(&self.target, deadline)?.into());
        }
        Ok(lease)
    }

    /// A place for a connection, perhaps with one.
    fn reserve(&self, deadline: Instant) -> Result<Lease<'_>, PgError> {
        let mut state = self.state.lock();
        loop {
            if let Some(client) = state.idle.pop() {
                return Ok(Lease { pool: self, client: Some(client.into()) });
            }
            if state.open < MOST {
                state.open += 1;
                return Ok(Lease { pool: self, client: None });
            }
            if state.stopped {
                return Err(PgError::Stopped);
            }
            if deadline <= Instant::now() {
                return Err(PgError::Deadline { phase: "waiting for a free connection" });
            }
            state = self.changed.wait_until(state, Some(deadline));
        }
    }

    /// Waits until an instant; `false` if the pool stops before.
    pub(super) fn pause(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.stopped && Instant::now() < until {
            state = self.changed.wait_until(state, Some(until));
        }
        !state.stopped
    }

    /// Ends all waits, also later ones. Connections that are free are still given out.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// A connection in use. Dropping it gives it back, unless its state is unknown.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    client: Option<RefCell<Client>>,
}

impl Lease<'_> {
    pub(super) fn get(&self) -> Result<&RefCell<Client>, PgError> {
        self.client.as_ref().ok_or(PgError::BadReply { what: "connection" })
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let client = self.client.take().map(RefCell::into_inner).filter(Client::is_idle);
        let mut state = self.pool.state.lock();
        match client {
            Some(client) => state.idle.push(client),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.changed.notify_one();
    }
}
