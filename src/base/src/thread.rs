//! Named threads. Every thread of the workspace is started here, so that `docs/threads.md` can be
//! compared with the calls.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// The kernel keeps 15 bytes of a thread's name.
pub const NAME_LIMIT: usize = 15;

/// Starts a thread named `name`, of which the kernel shows the first 15 bytes.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(work)
}

/// As [`spawn`], with a stack of `size` bytes.
pub fn spawn_with_stack<T: Send + 'static>(
    name: impl Into<String>,
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).stack_size(size).spawn(work)
}

/// As [`spawn`], for a thread that ends within `scope`.
pub fn spawn_scoped<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work)
}

/// Waits for a thread that was told to stop. A panic is logged, and the result is `None`.
pub fn join<T>(thread: JoinHandle<T>) -> Option<T> {
    let name = thread.thread().name().unwrap_or("?").to_owned();
    let result = thread.join().ok();
    if result.is_none() {
        log::error!("a thread panicked: this is a bug; thread={name}");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name_and_its_result() {
        let thread = spawn("job-1", || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(join(thread), Some(Some("job-1".to_owned())));
    }

    #[test]
    fn a_panic_of_a_thread_has_no_result() {
        assert_eq!(join(spawn("job-2", || panic!("as it should")).unwrap()), None::<()>);
    }
}
