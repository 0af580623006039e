//! Which task comes next: the first that touches no path of one that runs or comes before it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::manifest::Task;

/// All tasks of a manifest, shared by the workers.
pub(crate) struct Schedule<'a> {
    tasks: &'a [Task],
    paths: Vec<HashSet<PathBuf>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<usize>,
    running: Vec<usize>,
}

/// A task that its worker may do now. Dropping it lets those wait no longer that waited for it.
pub(crate) struct Turn<'s, 'a> {
    schedule: &'s Schedule<'a>,
    index: usize,
}

impl<'a> Schedule<'a> {
    pub(crate) fn new(tasks: &'a [Task]) -> Self {
        let state = State { waiting: (0..tasks.len()).collect(), running: Vec::new() };
        let paths = tasks.iter().map(Task::paths).collect();
        Self { tasks, paths, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for a task that may be done; none if all are taken.
    pub(crate) fn next(&self) -> Option<Turn<'_, 'a>> {
        let mut state = self.lock();
        loop {
            if state.waiting.is_empty() {
                return None;
            }
            let free = (0..state.waiting.len()).find(|at| {
                let earlier = state.running.iter().chain(&state.waiting[..*at]);
                let index = state.waiting[*at];
                earlier.into_iter().all(|other| !self.conflict(*other, index))
            });
            if let Some(at) = free {
                let index = state.waiting.remove(at);
                state.running.push(index);
                return Some(Turn { schedule: self, index });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether every task was taken.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Whether a path of one is a path of the other, or above or below one.
    fn conflict(&self, one: usize, other: usize) -> bool {
        self.paths[one].iter().any(|path| {
            self.paths[other].iter().any(|other| path.starts_with(other) || other.starts_with(path))
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it has the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Turn<'_, 'a> {
    pub(crate) fn task(&self) -> &'a Task {
        &self.schedule.tasks[self.index]
    }
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        self.schedule.lock().running.retain(|index| *index != self.index);
        self.schedule.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn manifest(paths: &[&str]) -> Manifest {
        let entries: Vec<_> =
            paths.iter().map(|path| format!(r#"{{"mountPath":"{path}"}}"#)).collect();
        Manifest::parse(format!(r#"{{"storages":[{}]}}"#, entries.join(",")).as_bytes()).unwrap()
    }

    fn path(turn: &Turn<'_, '_>) -> String {
        turn.task().mount.to_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_below_a_running_task_waits_and_what_is_beside_it_does_not() {
        let manifest = manifest(&["/x/a", "/x/a/b", "/x/ab", "/x/a"]);
        let schedule = Schedule::new(&manifest.tasks);
        let first = schedule.next().unwrap();
        let beside = schedule.next().unwrap();
        assert_eq!((path(&first), path(&beside)), ("/x/a".into(), "/x/ab".into()));
        drop(first);
        let below = schedule.next().unwrap();
        assert_eq!(path(&below), "/x/a/b");
        drop(below);
        assert_eq!(path(&schedule.next().unwrap()), "/x/a");
        assert!(schedule.next().is_none());
        assert!(schedule.is_done());
    }

    #[test]
    fn what_comes_later_does_not_overtake_what_it_is_above_of() {
        let manifest = manifest(&["/x/a/b", "/x/a/b/c", "/x/a/b/c/d"]);
        let schedule = Schedule::new(&manifest.tasks);
        let paths: Vec<_> =
            std::iter::from_fn(|| schedule.next().map(|turn| path(&turn))).collect();
        assert_eq!(paths, ["/x/a/b", "/x/a/b/c", "/x/a/b/c/d"]);
    }
}
