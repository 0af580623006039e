//! The thread that enforces leases and time-outs and prunes old data. It waits for the next deadline,
//! or for a notification that a deadline may be earlier.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;

use crate::backend::Backend;
use crate::notifier::{Topic, Woken};

/// How often old jobs and content are pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The delay after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// The minimum time between two rounds; a deadline may be enforced that much later.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) fn run(backend: &Arc<Backend>) {
    let mut subscription = backend.notifier.subscribe(Topic::Deadline);
    let mut next_prune = Instant::now();
    loop {
        if next_prune <= Instant::now() {
            next_prune = Instant::now() + PRUNE_INTERVAL;
            prune(backend);
        }
        let next = backend.enforce_deadlines().unwrap_or_else(|error| {
            log::error!("cannot enforce the deadlines of attempts; error={}", chain(&error));
            Some(Instant::now() + RETRY_DELAY)
        });
        let deadline =
            next.map_or(next_prune, |next| next.max(Instant::now() + MIN_INTERVAL).min(next_prune));
        if subscription.wait(deadline) == Woken::Stopped {
            return;
        }
    }
}

fn prune(backend: &Backend) {
    let pruned = backend.prune(backend.config.retention).and_then(|_| backend.forget_masks());
    if let Err(error) = pruned {
        log::error!("cannot prune old data; error={}", chain(&error));
    }
    if let Err(error) = backend.look_after_keys() {
        log::error!("the keys need attention; error={}", chain(&error));
    }
}
