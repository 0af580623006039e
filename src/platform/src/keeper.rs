//! The thread that looks after time: leases, time-outs, what is old. It sleeps until the next
//! deadline, or until one may have come nearer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;

use crate::backend::Backend;
use crate::bell::{Topic, Woken};

/// How often old jobs and content are looked for.
const TIDY: Duration = Duration::from_secs(60 * 60);

/// When to try again after a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// The least between two looks: what is due comes up to that much later.
const LEAST: Duration = Duration::from_millis(20);

pub(crate) fn run(backend: &Arc<Backend>) {
    let mut watch = backend.bell.watch(Topic::Deadline);
    let mut tidy = Instant::now();
    loop {
        if tidy <= Instant::now() {
            tidy = Instant::now() + TIDY;
            tidy_up(backend);
        }
        let next = backend.look_after_attempts().unwrap_or_else(|error| {
            log::error!("cannot look after attempts; error={}", chain(&error));
            Some(Instant::now() + AGAIN)
        });
        let deadline = next.map_or(tidy, |next| next.max(Instant::now() + LEAST).min(tidy));
        if watch.wait(deadline) == Woken::Stopped {
            return;
        }
    }
}

fn tidy_up(backend: &Backend) {
    let tidied = backend.prune(backend.config.retention).and_then(|_| backend.forget_masks());
    if let Err(error) = tidied {
        log::error!("cannot remove what is old; error={}", chain(&error));
    }
}
