//! The threads of calls: started when they are needed, a fixed number at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;

use super::Replies;
use crate::server::{Server, Work};

/// The most threads.
const THREADS: usize = 16;

/// The most calls that are under way, most of which wait for a thread.
pub(super) const MOST_CALLS: usize = 256;

pub(super) struct Pool {
    worker: Arc<Worker>,
    submit: Sender<Box<Work>>,
    threads: Vec<JoinHandle<()>>,
}

/// What all threads share.
struct Worker {
    server: Arc<Server>,
    work: Receiver<Box<Work>>,
    replies: Sender<Value>,
    /// Calls that wait or run.
    busy: AtomicUsize,
}

impl Pool {
    pub(super) fn new(server: Arc<Server>, replies: Sender<Value>) -> Self {
        // The session refuses more calls, so that there is always room.
        let (submit, work) = bounded(MOST_CALLS);
        let worker = Arc::new(Worker { server, work, replies, busy: AtomicUsize::new(0) });
        Self { worker, submit, threads: Vec::new() }
    }

    /// Has a call run. Returns a reply if it cannot.
    pub(super) fn submit(&mut self, work: Box<Work>) -> Option<Value> {
        let busy = self.worker.busy.fetch_add(1, Ordering::Relaxed) + 1;
        let count = self.threads.len();
        if busy > count && count < THREADS {
            let worker = Arc::clone(&self.worker);
            match base::thread::spawn(format!("mcp-{count}"), move || worker.run()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) if count == 0 => {
                    self.worker.busy.fetch_sub(1, Ordering::Relaxed);
                    return Some(work.refuse(&format!("cannot start a thread: {error}")));
                }
                // The other threads do it later.
                Err(error) => log::warn!("cannot start a thread; error={error}"),
            }
        }
        let _ = self.submit.send(work);
        None
    }

    /// Waits for all calls, which were cancelled before.
    pub(super) fn stop(self) {
        drop(self.submit);
        for thread in self.threads {
            base::thread::join(thread);
        }
    }
}

impl Worker {
    fn run(&self) {
        for work in &self.work {
            let reply = work.run(&self.server, &Replies(&self.replies), None);
            if let Some(reply) = reply {
                let _ = self.replies.send(reply);
            }
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
