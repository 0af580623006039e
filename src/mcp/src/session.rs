//! A client's session: its version, the calls that run, and the sandbox of calls that name none.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::sync::Mutex;
use sandbox::Cancellation;
use sandbox_api::Caller;

use crate::implicit::Implicit;
use crate::message::{Id, RpcError};

/// A client's session.
pub(crate) struct Session {
    pub(crate) caller: Caller,
    pub(crate) implicit: Implicit,
    most_calls: usize,
    /// How many calls run: read without the lock.
    running: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    version: Option<&'static str>,
    calls: HashMap<Id, Cancellation>,
    is_closed: bool,
}

/// A call that was begun. Dropping it ends it.
pub(crate) struct Running {
    session: Arc<Session>,
    id: Id,
    pub(crate) cancellation: Cancellation,
}

impl Session {
    /// A session that was not initialized. It has at most `most_calls` calls at a time.
    pub(crate) fn new(caller: Caller, most_calls: usize) -> Arc<Self> {
        let (implicit, state) = (Implicit::default(), Mutex::default());
        let running = AtomicUsize::new(0);
        Arc::new(Self { caller, implicit, most_calls, running, state })
    }

    pub(crate) fn initialize(&self, version: &'static str) -> Result<(), RpcError> {
        let mut state = self.state.lock();
        if state.version.is_some() {
            return Err(RpcError::invalid_request("the session is initialized already"));
        }
        state.version = Some(version);
        Ok(())
    }

    pub(crate) fn need_initialized(&self) -> Result<(), RpcError> {
        let is_initialized = self.state.lock().version.is_some();
        is_initialized
            .then_some(())
            .ok_or_else(|| RpcError::invalid_request("the first request has to be `initialize`"))
    }

    pub(crate) fn begin(session: &Arc<Self>, id: &Id) -> Result<Running, RpcError> {
        let mut state = session.state.lock();
        if state.is_closed {
            return Err(RpcError::busy("the session is ending"));
        }
        if state.calls.contains_key(id) {
            return Err(RpcError::invalid_request(
                "a request with this id is still being answered",
            ));
        }
        if state.calls.len() >= session.most_calls {
            let most = session.most_calls;
            let message = format!("{most} calls are under way, which is the most: wait for one");
            return Err(RpcError::busy(message));
        }
        let cancellation = Cancellation::new();
        state.calls.insert(id.clone(), cancellation.clone());
        session.running.fetch_add(1, Ordering::Relaxed);
        Ok(Running { session: Arc::clone(session), id: id.clone(), cancellation })
    }

    /// Cancels a call, if it still runs.
    pub(crate) fn cancel(&self, id: &Id) {
        let call = self.state.lock().calls.get(id).cloned();
        if let Some(call) = call {
            call.cancel();
            self.implicit.notify();
        }
    }

    /// Cancels all calls, and begins no more.
    pub(crate) fn close(&self) {
        let calls: Vec<_> = {
            let mut state = self.state.lock();
            state.is_closed = true;
            state.calls.values().cloned().collect()
        };
        calls.iter().for_each(Cancellation::cancel);
        self.implicit.notify();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }
}

impl Running {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn id(&self) -> &Id {
        &self.id
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.state.lock().calls.remove(&self.id);
        self.session.running.fetch_sub(1, Ordering::Relaxed);
    }
}
