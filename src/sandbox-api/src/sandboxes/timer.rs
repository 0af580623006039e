//! The thread `sandboxes`: pauses or ends those whose time is over, and removes those whose VM has ended.

use std::sync::Arc;
use std::thread::JoinHandle;

use base::error::chain;
use base::sync::Mutex;
use crossbeam_channel::{Receiver, Select, TryRecvError};

use super::life::Expired;
use super::managed::ManagedSandbox;
use super::registry::Registry;

/// Runs until `wake` is disconnected. Work on a VM takes time, so each has a thread of its own.
pub(super) fn run(registry: &Arc<Registry>, wake: &Receiver<()>) {
    let mut workers: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let (finished, running) = workers.into_iter().partition(JoinHandle::is_finished);
        workers = running;
        join(finished);
        let sandboxes = registry.all();
        for sandbox in &sandboxes {
            let is_paused = sandbox.lifecycle().pauses_on_timeout;
            if let Some(expired) = sandbox.life().expire(registry.clock.now(), is_paused) {
                workers.extend(start(registry, Arc::clone(sandbox), expired));
            }
        }
        match sleep(registry, &sandboxes, wake) {
            Woken::Stop => break,
            Woken::Changed => {}
            Woken::Ended(sandbox) => {
                registry.remove(sandbox.id());
                // Else a call has ended it.
                if let Some(vm) = sandbox.life().end() {
                    log::warn!("a sandbox's VM ended by itself; sandbox={}", sandbox.id());
                    workers.extend(start(registry, sandbox, Expired::End(vm)));
                }
            }
        }
    }
    join(workers);
}

/// Why the thread woke.
enum Woken {
    Changed,
    Ended(Arc<ManagedSandbox>),
    Stop,
}

/// Sleeps until a time-out, a change of the registry, or the end of a VM.
fn sleep(registry: &Registry, sandboxes: &[Arc<ManagedSandbox>], wake: &Receiver<()>) -> Woken {
    let deadline = sandboxes.iter().filter_map(|sandbox| sandbox.life().deadline()).min();
    let watched: Vec<_> = sandboxes
        .iter()
        .filter_map(|sandbox| sandbox.life().vm_ended().map(|ended| (sandbox, ended)))
        .collect();
    let mut select = Select::new();
    select.recv(wake);
    for (_, ended) in &watched {
        select.recv(ended);
    }
    let ready = match deadline {
        Some(deadline) => {
            let left = deadline.saturating_duration_since(registry.clock.now());
            select.ready_timeout(left).ok()
        }
        None => Some(select.ready()),
    };
    match ready {
        None => Woken::Changed,
        Some(0) if wake.try_recv() == Err(TryRecvError::Disconnected) => Woken::Stop,
        Some(0) => Woken::Changed,
        Some(index) => match watched.get(index - 1) {
            Some((sandbox, ended)) if ended.try_recv() == Err(TryRecvError::Disconnected) => {
                Woken::Ended(Arc::clone(sandbox))
            }
            _ => Woken::Changed,
        },
    }
}

/// Pauses or ends a VM in a thread of its own, or here if there is none.
fn start(
    registry: &Arc<Registry>,
    sandbox: Arc<ManagedSandbox>,
    expired: Expired,
) -> Option<JoinHandle<()>> {
    let short = sandbox.id().get(1..9).unwrap_or_default().to_owned();
    let job = Arc::new(Mutex::new(Some((sandbox, expired))));
    let work = {
        let (registry, job) = (Arc::clone(registry), Arc::clone(&job));
        move || apply(&registry, &job)
    };
    match base::thread::spawn(format!("expire-{short}"), work) {
        Ok(thread) => Some(thread),
        Err(error) => {
            log::error!("cannot start a thread; error={error}");
            apply(registry, &job);
            None
        }
    }
}

fn apply(registry: &Registry, job: &Mutex<Option<(Arc<ManagedSandbox>, Expired)>>) {
    let Some((sandbox, expired)) = job.lock().take() else { return };
    match expired {
        Expired::End(vm) => {
            log::info!("sandbox ended; sandbox={}", sandbox.id());
            registry.remove(sandbox.id());
            vm.end(sandbox.id());
        }
        Expired::Pause(vm) => match registry.finish_pause(&sandbox, vm) {
            Ok(()) => log::info!("sandbox paused at its time-out; sandbox={}", sandbox.id()),
            Err(error) => {
                log::error!("{}; sandbox={}", chain(&error), sandbox.id());
            }
        },
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        base::thread::join(thread);
    }
}
