//! The sessions of clients, each of one API key.
//!
//! Clients seldom end their sessions, so that a new one makes the longest unused one without calls go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::Mutex;
use base::{hex, random};
use sandbox_api::Clock;

use super::{Refused, Result};
use crate::session::Session;

/// How long a session stays without a request.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// The most sessions of a key, and of all keys.
const MOST: (usize, usize) = (64, 1024);

/// The most calls of a session at a time: each has a connection.
pub(super) const MOST_CALLS: usize = 32;

pub(super) struct Sessions {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<String, Entry>,
    is_stopped: bool,
}

struct Entry {
    session: Arc<Session>,
    key: String,
    used: Instant,
}

impl Sessions {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Adds a session, and returns its id.
    pub(super) fn add(&self, session: Arc<Session>, key: &str) -> Result<String> {
        let bytes: [u8; 20] = random::bytes().map_err(|error| {
            log::error!("cannot read random bytes; error={}", base::error::chain(&error));
            Refused::new(500, "cannot make the id of a session")
        })?;
        let (id, now) = (hex::encode(&bytes), self.clock.now());
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(Refused::new(503, "the server is stopping"));
        }
        state.sessions.retain(|_, one| !one.is_over(now));
        let of_key = state.sessions.values().filter(|one| one.key == key).count();
        let has_room = of_key < MOST.0 && state.sessions.len() < MOST.1;
        if !has_room && !state.drop_oldest(key) {
            return Err(Refused::new(
                429,
                "the API key has too many sessions: end one with DELETE",
            ));
        }
        state.sessions.insert(id.clone(), Entry { session, key: key.to_owned(), used: now });
        Ok(id)
    }

    /// The session of this id, if it is the key's.
    pub(super) fn find(&self, id: &str, key: &str) -> Option<Arc<Session>> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let entry = state.sessions.get_mut(id).filter(|one| one.key == key && !one.is_over(now))?;
        entry.used = now;
        Some(Arc::clone(&entry.session))
    }

    /// Takes the session of this id out, if it is the key's.
    pub(super) fn end(&self, id: &str, key: &str) -> Option<Arc<Session>> {
        let mut state = self.state.lock();
        state.sessions.get(id).filter(|one| one.key == key)?;
        state.sessions.remove(id).map(|entry| entry.session)
    }

    pub(super) fn stop(&self) {
        let sessions = {
            let mut state = self.state.lock();
            state.is_stopped = true;
            std::mem::take(&mut state.sessions)
        };
        sessions.values().for_each(|entry| entry.session.close());
    }
}

impl State {
    /// Drops the key's longest unused session without calls; `false` if it has none.
    fn drop_oldest(&mut self, key: &str) -> bool {
        let idle = self.sessions.iter().filter(|(_, one)| one.key == key && one.session.is_idle());
        let oldest = idle.min_by_key(|(_, one)| one.used).map(|(id, _)| id.clone());
        oldest.and_then(|id| self.sessions.remove(&id)).is_some()
    }
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        self.session.is_idle() && now.saturating_duration_since(self.used) > IDLE
    }
}
