//! Who waits for a change, and how it is told.
//!
//! A bell says only that something of a topic *may* have changed; what is true is in the database.
//! So a waiter first makes its [`Watch`], then looks, then waits: a change between the look and
//! the wait is not missed. A topic that nobody watches costs nothing.

use std::collections::HashMap;
use std::time::Instant;

use base::sync::{Condvar, Mutex, MutexGuard};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::RunId;

/// What somebody can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Jobs to be claimed, and jobs to be cancelled.
    Work,
    /// A deadline that may have come nearer.
    Deadline,
    /// Events, telemetry or the end of a job.
    Job(RunId),
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Changed,
    Deadline,
    Stopped,
}

#[derive(Default)]
struct Topics {
    watched: HashMap<Topic, Watched>,
    /// Those who wait for work in a `select!` of their own.
    workers: Vec<Sender<()>>,
    stopped: bool,
}

#[derive(Default)]
struct Watched {
    watchers: usize,
    rings: u64,
}

/// All topics of a platform.
#[derive(Default)]
pub(crate) struct Bell {
    topics: Mutex<Topics>,
    rung: Condvar,
}

impl Bell {
    /// Wakes all who watch the topic.
    pub(crate) fn ring(&self, topic: Topic) {
        let mut topics = self.lock();
        if let Some(watched) = topics.watched.get_mut(&topic) {
            watched.rings += 1;
            self.rung.notify_all();
        }
        if topic == Topic::Work && !topics.workers.is_empty() {
            let workers = topics.workers.clone();
            drop(topics);
            // One that is full has a ring to hear already.
            let is_gone = |worker: &Sender<()>| {
                matches!(worker.try_send(()), Err(TrySendError::Disconnected(())))
            };
            let gone: Vec<_> = workers.into_iter().filter(is_gone).collect();
            if !gone.is_empty() {
                let stays = |worker: &Sender<()>| !gone.iter().any(|one| one.same_channel(worker));
                self.lock().workers.retain(stays);
            }
        }
    }

    /// Hears rings for work, beginning with one now. It disconnects when all is stopped.
    pub(crate) fn worker(&self) -> Receiver<()> {
        let (worker, rings) = bounded(1);
        let _ = worker.try_send(());
        let mut topics = self.lock();
        if !topics.stopped {
            topics.workers.push(worker);
        }
        rings
    }

    /// Ends all waits, those to come too.
    pub(crate) fn stop(&self) {
        let mut topics = self.lock();
        topics.stopped = true;
        topics.workers.clear();
        self.rung.notify_all();
    }

    /// For long work that nobody waits for: whether to leave the rest.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// From here on no ring is missed.
    pub(crate) fn watch(&self, topic: Topic) -> Watch<'_> {
        let mut topics = self.lock();
        let watched = topics.watched.entry(topic).or_default();
        watched.watchers += 1;
        Watch { bell: self, topic, heard: watched.rings }
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock()
    }
}

/// Somebody who is told about a topic.
pub(crate) struct Watch<'a> {
    bell: &'a Bell,
    topic: Topic,
    heard: u64,
}

impl Watch<'_> {
    /// Sleeps until there was a ring since the last wait, or the deadline.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Woken {
        let mut topics = self.bell.lock();
        loop {
            if topics.stopped {
                return Woken::Stopped;
            }
            let rings = topics.watched.get(&self.topic).map_or(0, |watched| watched.rings);
            if rings != self.heard {
                self.heard = rings;
                return Woken::Changed;
            }
            if deadline <= Instant::now() {
                return Woken::Deadline;
            }
            topics = self.bell.rung.wait_until(topics, Some(deadline));
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut topics = self.bell.lock();
        if let Some(watched) = topics.watched.get_mut(&self.topic) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                topics.watched.remove(&self.topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::TryRecvError;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_ring_before_the_wait_is_not_missed_and_counts_once() {
        let bell = Bell::default();
        let mut watch = bell.watch(Topic::Work);
        bell.ring(Topic::Work);

        assert_eq!(watch.wait(soon()), Woken::Changed);
        assert_eq!(watch.wait(Instant::now()), Woken::Deadline);
    }

    #[test]
    fn a_waiter_hears_only_its_topic_until_all_is_stopped() {
        let bell = Bell::default();
        let mut watch = bell.watch(Topic::Job(RunId::random()));
        bell.ring(Topic::Work);

        assert_eq!(watch.wait(Instant::now()), Woken::Deadline);
        bell.stop();
        assert_eq!(watch.wait(soon()), Woken::Stopped);
    }

    #[test]
    fn a_waiter_in_another_thread_is_woken() {
        let bell = Bell::default();
        let mut watch = bell.watch(Topic::Work);

        let woken = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| watch.wait(soon()));
            bell.ring(Topic::Work);
            waiter.join().unwrap()
        });

        assert_eq!(woken, Woken::Changed);
    }

    #[test]
    fn a_worker_hears_many_rings_as_one_and_then_the_end() {
        let bell = Bell::default();
        let rings = bell.worker();
        bell.ring(Topic::Work);
        bell.ring(Topic::Work);

        assert!(rings.try_recv().is_ok());
        assert_eq!(rings.try_recv(), Err(TryRecvError::Empty));
        bell.stop();
        assert_eq!(rings.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_worker_that_went_is_forgotten() {
        let bell = Bell::default();
        drop(bell.worker());

        bell.ring(Topic::Work);

        assert!(bell.lock().workers.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_a_topic_that_nobody_watches() {
        let bell = Bell::default();
        drop(bell.watch(Topic::Work));
        bell.ring(Topic::Work);

        assert!(bell.lock().watched.is_empty());
    }
}
