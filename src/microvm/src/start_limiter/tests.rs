//! The start limiter, each test with a semaphore set of its own.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicI32;

use super::semaphore::{FREE, TURN};
use super::sys;
use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A semaphore set of its own, removed at the end.
struct Scene {
    key: key_t,
}

impl Scene {
    fn new() -> Self {
        static NUMBER: AtomicI32 = AtomicI32::new(0);
        let process = i32::try_from(std::process::id()).unwrap() << 8;
        Self { key: 0x4000_0000 | process | NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    fn limiter(&self, timeout: Duration) -> StartLimiter {
        StartLimiter::new(self.key, 2, timeout)
    }

    fn id(&self) -> sys::Id {
        sys::get(self.key, 0, 0).unwrap()
    }

    fn free(&self) -> i32 {
        sys::value(self.id(), FREE).unwrap()
    }

    /// Returns when a thread waits for the semaphore.
    fn wait_for_waiter(&self, semaphore: u16) {
        while sys::waiters(self.id(), semaphore).unwrap() == 0 {
            thread::yield_now();
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        sys::remove(self.id()).unwrap();
    }
}

fn vm() -> SandboxId {
    SandboxId::random().unwrap()
}

#[test]
fn a_small_vm_does_not_overtake_a_large_vm_that_queued_earlier() {
    let scene = Scene::new();
    let limiter = scene.limiter(LONG);
    let first = limiter.acquire(vm(), 1, &Cancellation::new()).unwrap();
    let (sender, receiver) = crossbeam_channel::unbounded();

    let order: Vec<_> = thread::scope(|scope| {
        let start = |name, vcpus| {
            let (limiter, sender) = (&limiter, sender.clone());
            scope.spawn(move || {
                let _permit = limiter.acquire(vm(), vcpus, &Cancellation::new()).unwrap();
                sender.send(name).unwrap();
            });
        };
        start("large", 2);
        scene.wait_for_waiter(FREE);
        // There is a token for it.
        start("small", 1);
        scene.wait_for_waiter(TURN);
        drop(first);
        receiver.iter().take(2).collect()
    });

    assert_eq!(order, ["large", "small"]);
    assert_eq!(scene.free(), 2);
}

#[test]
fn a_vm_with_more_processors_than_the_host_acquires_all_tokens() {
    let scene = Scene::new();
    let permit = scene.limiter(LONG).acquire(vm(), 64, &Cancellation::new()).unwrap();
    assert_eq!(scene.free(), 0);
    drop(permit);
    assert_eq!(scene.free(), 2);
}

#[test]
fn the_process_that_creates_the_set_decides_the_number_of_tokens() {
    let scene = Scene::new();
    drop(StartLimiter::new(scene.key, 3, LONG).acquire(vm(), 1, &Cancellation::new()).unwrap());
    let _permit =
        StartLimiter::new(scene.key, 8, LONG).acquire(vm(), 8, &Cancellation::new()).unwrap();
    assert_eq!(scene.free(), 0);
    assert_eq!(SemaphoreSet::capacity(scene.key), Ok(3));
}

#[test]
fn a_start_that_times_out_names_the_phase_it_waited_in() {
    let scene = Scene::new();
    let (patient, impatient) = (scene.limiter(LONG), scene.limiter(Duration::ZERO));
    let all = patient.acquire(vm(), 2, &Cancellation::new()).unwrap();
    let first = impatient.acquire(vm(), 1, &Cancellation::new()).unwrap_err().to_string();

    let second = thread::scope(|scope| {
        scope.spawn(|| patient.acquire(vm(), 1, &Cancellation::new()).unwrap());
        scene.wait_for_waiter(FREE);
        let error = impatient.acquire(vm(), 1, &Cancellation::new()).unwrap_err().to_string();
        drop(all);
        error
    });

    assert!(first.contains("for processors, first in the queue"), "{first}");
    assert!(second.contains("waited 0ns in the queue"), "{second}");
    assert!(second.contains(&format!("`ipcrm -S {:#x}`", scene.key)), "{second}");
}

#[test]
fn a_panic_releases_the_tokens() {
    let scene = Scene::new();
    let limiter = scene.limiter(LONG);
    let ended = thread::scope(|scope| {
        let start = || {
            let _permit = limiter.acquire(vm(), 2, &Cancellation::new()).unwrap();
            panic!("on purpose");
        };
        scope.spawn(start).join()
    });
    assert!(ended.is_err());
    assert_eq!(scene.free(), 2);
}

#[test]
fn a_cancelled_start_returns_and_holds_no_tokens() {
    let scene = Scene::new();
    let limiter = scene.limiter(LONG);
    let (all, killed) = (limiter.acquire(vm(), 2, &Cancellation::new()).unwrap(), vm());
    let cancellation = Cancellation::new();

    let error = thread::scope(|scope| {
        let waits = scope.spawn(|| limiter.acquire(killed, 2, &cancellation).unwrap_err());
        scene.wait_for_waiter(FREE);
        cancellation.cancel();
        waits.join().unwrap()
    });
    drop(all);
    // It is queued behind the cancelled one.
    let next = limiter.acquire(vm(), 2, &Cancellation::new());

    assert!(matches!(error, Error::StartCancelled { id } if id == killed), "{error}");
    assert!(next.unwrap().is_some());
}

#[test]
fn a_removed_semaphore_set_is_created_again() {
    let scene = Scene::new();
    let limiter = scene.limiter(LONG);
    let of_removed_set = limiter.acquire(vm(), 2, &Cancellation::new()).unwrap();

    let permit = thread::scope(|scope| {
        let waits = scope.spawn(|| limiter.acquire(vm(), 1, &Cancellation::new()).unwrap());
        scene.wait_for_waiter(FREE);
        sys::remove(scene.id()).unwrap();
        waits.join().unwrap()
    });
    drop(of_removed_set);

    assert!(permit.is_some());
    assert_eq!(scene.free(), 1);
}

#[test]
fn a_start_is_not_limited_where_semaphores_do_not_work() {
    let scene = Scene::new();
    sys::get(scene.key, 1, libc::IPC_CREAT).unwrap();
    assert!(scene.limiter(LONG).acquire(vm(), 1, &Cancellation::new()).unwrap().is_none());
}

const HOLDER: &str = "START_LIMITER_TEST_KEY";

#[test]
fn tokens_are_released_when_their_holder_is_killed() {
    let scene = Scene::new();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_limiter::tests::holder", "--ignored", "--nocapture"])
        .env(HOLDER, scene.key.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")));
    let before = scene.free();

    holder.kill().unwrap();
    holder.wait().unwrap();

    assert_eq!((before, scene.free()), (0, 2));
    assert!(scene.limiter(LONG).acquire(vm(), 2, &Cancellation::new()).unwrap().is_some());
}

#[test]
#[ignore = "is the process that another test kills"]
fn holder() {
    let Ok(key) = std::env::var(HOLDER) else { return };
    let limiter = StartLimiter::new(key.parse().unwrap(), 2, LONG);
    let _permit = limiter.acquire(vm(), 2, &Cancellation::new()).unwrap();
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
