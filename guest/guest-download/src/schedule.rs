//! Picks the next task: the first whose paths conflict with no running and no earlier task.

use std::collections::HashSet;
use std::path::PathBuf;

use base::sync::{Condvar, Mutex, MutexGuard};

use crate::manifest::Task;

/// The tasks of a manifest, shared by the workers.
pub(crate) struct Schedule<'a> {
    tasks: &'a [Task],
    paths: Vec<HashSet<PathBuf>>,
    state: Mutex<ScheduleState>,
    changed: Condvar,
}

struct ScheduleState {
    waiting: Vec<usize>,
    running: Vec<usize>,
}

/// A task that its worker may run now. Dropping it releases the tasks that conflict with it.
pub(crate) struct ScheduledTask<'s, 'a> {
    schedule: &'s Schedule<'a>,
    index: usize,
}

impl<'a> Schedule<'a> {
    pub(crate) fn new(tasks: &'a [Task]) -> Self {
        let state = ScheduleState { waiting: (0..tasks.len()).collect(), running: Vec::new() };
        let paths = tasks.iter().map(Task::paths).collect();
        Self { tasks, paths, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for a task that may run. `None` if all tasks are taken.
    pub(crate) fn next(&self) -> Option<ScheduledTask<'_, 'a>> {
        let mut state = self.lock();
        loop {
            if state.waiting.is_empty() {
                return None;
            }
            let ready = (0..state.waiting.len()).find(|at| {
                let earlier = state.running.iter().chain(&state.waiting[..*at]);
                let index = state.waiting[*at];
                earlier.into_iter().all(|other| !self.conflict(*other, index))
            });
            if let Some(at) = ready {
                let index = state.waiting.remove(at);
                state.running.push(index);
                return Some(ScheduledTask { schedule: self, index });
            }
            state = self.changed.wait(state);
        }
    }

    /// Whether every task was taken.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Whether two tasks have equal or nested paths.
    fn conflict(&self, one: usize, other: usize) -> bool {
        self.paths[one].iter().any(|path| {
            self.paths[other].iter().any(|other| path.starts_with(other) || other.starts_with(path))
        })
    }

    fn lock(&self) -> MutexGuard<'_, ScheduleState> {
        self.state.lock()
    }
}

impl<'a> ScheduledTask<'_, 'a> {
    pub(crate) fn task(&self) -> &'a Task {
        &self.schedule.tasks[self.index]
    }
}

impl Drop for ScheduledTask<'_, '_> {
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

    fn path(scheduled: &ScheduledTask<'_, '_>) -> String {
        scheduled.task().mount.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_task_below_a_running_one_waits_and_a_task_beside_it_does_not() {
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
    fn tasks_on_nested_paths_run_in_the_order_of_the_manifest() {
        let manifest = manifest(&["/x/a/b", "/x/a/b/c", "/x/a/b/c/d"]);
        let schedule = Schedule::new(&manifest.tasks);
        let paths: Vec<_> =
            std::iter::from_fn(|| schedule.next().map(|scheduled| path(&scheduled))).collect();
        assert_eq!(paths, ["/x/a/b", "/x/a/b/c", "/x/a/b/c/d"]);
    }
}
