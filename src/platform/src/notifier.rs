//! Notifications between threads, by topic.
//!
//! A notification says only that something of a topic *may* have changed; the database holds the
//! truth. A thread first makes its [`Subscription`], then reads the database, then waits: so it does
//! not miss a change between the read and the wait. A topic without subscribers costs nothing.
//!
//! With a shared database, notifications also go to the other platforms: see `wakeup.rs`.

#[cfg(feature = "postgres")]
mod outbound;

use std::collections::HashMap;
#[cfg(feature = "postgres")]
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use base::sync::{Condvar, Mutex, MutexGuard};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

#[cfg(feature = "postgres")]
pub(crate) use self::outbound::Outbound;
use crate::RunId;

/// A subject of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Jobs to be claimed, and jobs to be cancelled.
    Work,
    /// The next deadline of an attempt, which may be earlier now.
    Deadline,
    /// Events, telemetry or the end of a job.
    Job(RunId),
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Changed,
    Deadline,
    Stopped,
}

#[derive(Default)]
struct Topics {
    states: HashMap<Topic, TopicState>,
    /// Runners in this process, which wait in a `select!` of their own.
    workers: Vec<Sender<()>>,
    /// The thread that looks for jobs for held polls.
    placer: Option<Sender<()>>,
    /// How many notifications for [`Topic::Work`] there were.
    work: u64,
    stopped: bool,
}

#[derive(Default)]
struct TopicState {
    subscribers: usize,
    notifications: u64,
}

/// The topics of a platform and their subscribers.
#[derive(Default)]
pub(crate) struct Notifier {
    topics: Mutex<Topics>,
    changed: Condvar,
    /// For other platforms.
    #[cfg(feature = "postgres")]
    outbound: OnceLock<Arc<Outbound>>,
}

impl Notifier {
    /// Wakes all subscribers of the topic, in other platforms as well.
    pub(crate) fn notify(&self, topic: Topic) {
        self.wake(topic);
        #[cfg(feature = "postgres")]
        if let Some(outbound) = self.outbound.get().filter(|_| topic != Topic::Deadline) {
            outbound.add(topic);
        }
    }

    /// From here on notifications are collected for other platforms.
    #[cfg(feature = "postgres")]
    pub(crate) fn forward(&self) -> nix::Result<Arc<Outbound>> {
        let outbound = Arc::new(Outbound::new()?);
        Ok(Arc::clone(self.outbound.get_or_init(|| outbound)))
    }

    /// Whether a runner waits for work, and which jobs are waited for.
    #[cfg(feature = "postgres")]
    pub(crate) fn waits(&self) -> (bool, Vec<RunId>) {
        let topics = self.lock();
        let is_work = topics.states.contains_key(&Topic::Work) || !topics.workers.is_empty();
        let run = |topic: &Topic| match topic {
            Topic::Job(run) => Some(*run),
            Topic::Work | Topic::Deadline => None,
        };
        (is_work, topics.states.keys().filter_map(run).collect())
    }

    /// Wakes all subscribers of all topics in this process.
    #[cfg(feature = "postgres")]
    pub(crate) fn wake_all(&self) {
        let topics: Vec<_> = self.lock().states.keys().copied().collect();
        for topic in topics.into_iter().chain([Topic::Work]) {
            self.wake(topic);
        }
    }

    /// Wakes all subscribers of the topic in this process.
    pub(crate) fn wake(&self, topic: Topic) {
        let mut topics = self.lock();
        if let Some(state) = topics.states.get_mut(&topic) {
            state.notifications += 1;
            self.changed.notify_all();
        }
        if topic == Topic::Work {
            topics.work += 1;
            // A full channel already has a notification.
            let _ = topics.placer.as_ref().map(|placer| placer.try_send(()));
        }
        if topic == Topic::Work && !topics.workers.is_empty() {
            let workers = topics.workers.clone();
            drop(topics);
            // A full channel already has a notification.
            let is_closed = |worker: &Sender<()>| {
                matches!(worker.try_send(()), Err(TrySendError::Disconnected(())))
            };
            let closed: Vec<_> = workers.into_iter().filter(is_closed).collect();
            if !closed.is_empty() {
                let is_open =
                    |worker: &Sender<()>| !closed.iter().any(|one| one.same_channel(worker));
                self.lock().workers.retain(is_open);
            }
        }
    }

    /// A channel of notifications for [`Topic::Work`], with one in it. It disconnects at the stop.
    pub(crate) fn subscribe_to_work(&self) -> Receiver<()> {
        let (worker, notifications) = bounded(1);
        let _ = worker.try_send(());
        let mut topics = self.lock();
        if !topics.stopped {
            topics.workers.push(worker);
        }
        notifications
    }

    /// As [`Notifier::subscribe_to_work`], for the thread of held polls.
    pub(crate) fn subscribe_placer(&self) -> Receiver<()> {
        let (placer, notifications) = bounded(1);
        let mut topics = self.lock();
        topics.placer = Some(placer).filter(|_| !topics.stopped);
        notifications
    }

    /// Changes with each notification for [`Topic::Work`].
    pub(crate) fn work_version(&self) -> u64 {
        self.lock().work
    }

    /// Ends all waits, also later ones.
    pub(crate) fn stop(&self) {
        let mut topics = self.lock();
        topics.stopped = true;
        topics.placer = None;
        topics.workers.clear();
        self.changed.notify_all();
        drop(topics);
        #[cfg(feature = "postgres")]
        if let Some(outbound) = self.outbound.get() {
            outbound.event().set();
        }
    }

    /// Whether the platform stops, for long work to check.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Subscribes to a topic: from now on each notification ends a wait.
    pub(crate) fn subscribe(&self, topic: Topic) -> Subscription<'_> {
        let mut topics = self.lock();
        let state = topics.states.entry(topic).or_default();
        state.subscribers += 1;
        Subscription { notifier: self, topic, seen: state.notifications }
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock()
    }
}

/// A subscription to a topic. Dropping it cancels it.
pub(crate) struct Subscription<'a> {
    notifier: &'a Notifier,
    topic: Topic,
    seen: u64,
}

impl Subscription<'_> {
    /// Waits for a notification since the last wait, until the deadline.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Woken {
        let mut topics = self.notifier.lock();
        loop {
            if topics.stopped {
                return Woken::Stopped;
            }
            let notifications =
                topics.states.get(&self.topic).map_or(0, |state| state.notifications);
            if notifications != self.seen {
                self.seen = notifications;
                return Woken::Changed;
            }
            if deadline <= Instant::now() {
                return Woken::Deadline;
            }
            topics = self.notifier.changed.wait_until(topics, Some(deadline));
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        let mut topics = self.notifier.lock();
        if let Some(state) = topics.states.get_mut(&self.topic) {
            state.subscribers -= 1;
            if state.subscribers == 0 {
                topics.states.remove(&self.topic);
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
    fn a_notification_before_the_wait_ends_one_wait() {
        let notifier = Notifier::default();
        let mut subscription = notifier.subscribe(Topic::Work);
        notifier.notify(Topic::Work);

        assert_eq!(subscription.wait(soon()), Woken::Changed);
        assert_eq!(subscription.wait(Instant::now()), Woken::Deadline);
    }

    #[test]
    fn a_subscription_gets_its_topic_and_the_stop() {
        let notifier = Notifier::default();
        let mut subscription = notifier.subscribe(Topic::Job(RunId::random()));
        notifier.notify(Topic::Work);

        assert_eq!(subscription.wait(Instant::now()), Woken::Deadline);
        notifier.stop();
        assert_eq!(subscription.wait(soon()), Woken::Stopped);
    }

    #[test]
    fn a_notification_wakes_a_thread_that_waits() {
        let notifier = Notifier::default();
        let mut subscription = notifier.subscribe(Topic::Work);

        let woken = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| subscription.wait(soon()));
            notifier.notify(Topic::Work);
            waiter.join().unwrap()
        });

        assert_eq!(woken, Woken::Changed);
    }

    #[test]
    fn work_notifications_coalesce_and_the_stop_disconnects() {
        let notifier = Notifier::default();
        let notifications = notifier.subscribe_to_work();
        notifier.notify(Topic::Work);
        notifier.notify(Topic::Work);

        assert!(notifications.try_recv().is_ok());
        assert_eq!(notifications.try_recv(), Err(TryRecvError::Empty));
        notifier.stop();
        assert_eq!(notifications.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_dropped_work_subscription_is_removed() {
        let notifier = Notifier::default();
        drop(notifier.subscribe_to_work());

        notifier.notify(Topic::Work);

        assert!(notifier.lock().workers.is_empty());
    }

    #[test]
    fn a_topic_without_subscribers_is_removed() {
        let notifier = Notifier::default();
        drop(notifier.subscribe(Topic::Work));
        notifier.notify(Topic::Work);

        assert!(notifier.lock().states.is_empty());
    }
}
