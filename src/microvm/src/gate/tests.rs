//! The gate, by sets of the tests' own.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicI32;

use super::set::{FREE, TURN};
use super::sys;
use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A set of its own, removed at the end.
struct Scene {
    key: key_t,
}

impl Scene {
    fn new() -> Self {
        static NUMBER: AtomicI32 = AtomicI32::new(0);
        let process = i32::try_from(std::process::id()).unwrap() << 8;
        Self { key: 0x4000_0000 | process | NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    fn gate(&self, patience: Duration) -> Gate {
        Gate::new(self.key, 2, patience)
    }

    fn id(&self) -> sys::Id {
        sys::get(self.key, 0, 0).unwrap()
    }

    fn free(&self) -> i32 {
        sys::value(self.id(), FREE).unwrap()
    }

    /// Returns when somebody waits there.
    fn wait_for_one_who_waits(&self, semaphore: u16) {
        while sys::waiting(self.id(), semaphore).unwrap() == 0 {
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
fn a_small_vm_does_not_overtake_a_large_one_that_came_before() {
    let scene = Scene::new();
    let gate = scene.gate(LONG);
    let first = gate.enter(vm(), 1).unwrap();
    let (tell, told) = crossbeam_channel::unbounded();

    let order: Vec<_> = thread::scope(|scope| {
        let start = |name, vcpus| {
            let (gate, tell) = (&gate, tell.clone());
            scope.spawn(move || {
                let _held = gate.enter(vm(), vcpus).unwrap();
                tell.send(name).unwrap();
            });
        };
        start("large", 2);
        scene.wait_for_one_who_waits(FREE);
        // There is a token for it.
        start("small", 1);
        scene.wait_for_one_who_waits(TURN);
        drop(first);
        told.iter().take(2).collect()
    });

    assert_eq!(order, ["large", "small"]);
    assert_eq!(scene.free(), 2);
}

#[test]
fn a_vm_with_more_processors_than_there_are_takes_all() {
    let scene = Scene::new();
    let held = scene.gate(LONG).enter(vm(), 64).unwrap();
    assert_eq!(scene.free(), 0);
    drop(held);
    assert_eq!(scene.free(), 2);
}

#[test]
fn the_number_of_tokens_is_that_of_whoever_made_the_set() {
    let scene = Scene::new();
    drop(Gate::new(scene.key, 3, LONG).enter(vm(), 1).unwrap());
    let _held = Gate::new(scene.key, 8, LONG).enter(vm(), 8).unwrap();
    assert_eq!(scene.free(), 0);
    assert_eq!(Set::look(scene.key), Ok(3));
}

#[test]
fn a_time_out_names_the_phase() {
    let scene = Scene::new();
    let (patient, hasty) = (scene.gate(LONG), scene.gate(Duration::ZERO));
    let all = patient.enter(vm(), 2).unwrap();
    let first = hasty.enter(vm(), 1).unwrap_err().to_string();

    let second = thread::scope(|scope| {
        scope.spawn(|| patient.enter(vm(), 1).unwrap());
        scene.wait_for_one_who_waits(FREE);
        let error = hasty.enter(vm(), 1).unwrap_err().to_string();
        drop(all);
        error
    });

    assert!(first.contains("for processors, first in the queue"), "{first}");
    assert!(second.contains("waited 0ns in the queue for its turn"), "{second}");
    assert!(second.contains(&format!("`ipcrm -S {:#x}`", scene.key)), "{second}");
}

#[test]
fn a_panic_gives_the_tokens_back() {
    let scene = Scene::new();
    let gate = scene.gate(LONG);
    let ended = thread::scope(|scope| {
        let start = || {
            let _held = gate.enter(vm(), 2).unwrap();
            panic!("on purpose");
        };
        scope.spawn(start).join()
    });
    assert!(ended.is_err());
    assert_eq!(scene.free(), 2);
}

#[test]
fn a_start_that_is_called_off_ends_and_keeps_nothing() {
    let scene = Scene::new();
    let gate = scene.gate(LONG);
    let (all, killed) = (gate.enter(vm(), 2).unwrap(), vm());

    let error = thread::scope(|scope| {
        let waits = scope.spawn(|| gate.enter(killed, 2).unwrap_err());
        scene.wait_for_one_who_waits(FREE);
        call_off(killed);
        waits.join().unwrap()
    });
    drop(all);
    // It comes after the one that was left behind.
    let next = gate.enter(vm(), 2);

    assert!(matches!(error, Error::CalledOff { id } if id == killed), "{error}");
    assert!(next.unwrap().is_some());
    assert!(waiting().get(&killed).is_none());
}

#[test]
fn a_set_that_is_removed_is_made_anew() {
    let scene = Scene::new();
    let gate = scene.gate(LONG);
    let of_the_old_one = gate.enter(vm(), 2).unwrap();

    let held = thread::scope(|scope| {
        let waits = scope.spawn(|| gate.enter(vm(), 1).unwrap());
        scene.wait_for_one_who_waits(FREE);
        sys::remove(scene.id()).unwrap();
        waits.join().unwrap()
    });
    drop(of_the_old_one);

    assert!(held.is_some());
    assert_eq!(scene.free(), 1);
}

#[test]
fn without_a_gate_a_start_goes_on() {
    let scene = Scene::new();
    sys::get(scene.key, 1, libc::IPC_CREAT).unwrap();
    assert!(scene.gate(LONG).enter(vm(), 1).unwrap().is_none());
}

const HOLDER: &str = "GATE_TEST_KEY";

#[test]
fn tokens_come_back_when_their_holder_is_killed() {
    let scene = Scene::new();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "gate::tests::holder", "--ignored", "--nocapture"])
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
    assert!(scene.gate(LONG).enter(vm(), 2).unwrap().is_some());
}

#[test]
#[ignore = "is the process that another test kills"]
fn holder() {
    let Ok(key) = std::env::var(HOLDER) else { return };
    let gate = Gate::new(key.parse().unwrap(), 2, LONG);
    let _held = gate.enter(vm(), 2).unwrap();
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
