//! The registry against scripted sandboxes.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::deadline::poll_until;
use nix::poll::{PollFd, PollFlags};
use sandbox::fake::Script;

use super::*;
use crate::launcher::LaunchError;
use crate::testing::registry;

const MINUTE: Duration = Duration::from_secs(60);

fn caller(key: &str) -> Caller {
    Caller { key: key.to_owned(), limits: Limits::default() }
}

fn request() -> CreateRequest {
    CreateRequest::new("base")
}

fn pausing() -> CreateRequest {
    let lifecycle = Lifecycle { pauses_on_timeout: true, resumes_on_request: false };
    CreateRequest { lifecycle, ..request() }
}

impl Sandboxes {
    /// Lets the thread see that the clock was moved.
    fn clock_moved(&self) {
        self.registry.wake();
    }
}

#[test]
fn a_sandbox_starts_from_a_template_by_its_alias() {
    let (sandboxes, launcher, clock) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let launched = launcher.requests.lock().first().cloned().unwrap();
    assert_eq!(launched.name, format!("sandbox-{}", sandbox.id()));
    assert_eq!(
        (launched.template.as_str(), sandbox.template().name.as_str()),
        ("default", "default")
    );
    let end_at = clock.wall() + 5 * MINUTE;
    assert_eq!(sandbox.status(), Status { state: State::Running, end_at });
    assert_eq!(sandbox.traffic_token(), None);
    assert_eq!(sandbox.envd_token().len(), 64);
}

#[test]
fn a_sandbox_of_another_key_is_not_found() {
    let (sandboxes, _, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let id = sandbox.id();
    assert!(matches!(sandboxes.get(&caller("b"), id), Err(Error::NotFound { .. })));
    assert!(matches!(sandboxes.kill(&caller("b"), id), Err(Error::NotFound { .. })));
    assert!(matches!(sandboxes.pause(&caller("b"), id), Err(Error::NotFound { .. })));
    assert!(sandboxes.list(&caller("b"), &Filter::default()).unwrap().sandboxes.is_empty());
    assert!(sandboxes.get(&caller("a"), id).is_ok());
}

#[test]
fn a_killed_sandbox_closes_its_streams_and_ends_its_vm() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let closed = sandbox.running().unwrap().closed().clone();
    sandboxes.kill(&caller("a"), sandbox.id()).unwrap();
    assert!(closed.is_set());
    assert!(sandbox.ended().recv().is_err());
    assert!(sandbox.running().is_none());
    assert_eq!(launcher.factory.record().ended, 1);
    assert!(matches!(sandboxes.kill(&caller("a"), sandbox.id()), Err(Error::NotFound { .. })));
    assert!(sandboxes.find(sandbox.id()).is_none());
}

#[test]
fn a_vm_in_use_by_a_call_ends_with_the_call() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let call = sandbox.running().unwrap();
    sandboxes.kill(&caller("a"), sandbox.id()).unwrap();
    assert!(call.closed().is_set());
    assert_eq!(launcher.factory.record().ended, 0);
    drop(call);
    assert_eq!(launcher.factory.record().ended, 1);
}

#[test]
fn a_sandbox_ends_at_its_time_out() {
    let (sandboxes, launcher, clock) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    clock.advance(5 * MINUTE);
    sandboxes.clock_moved();
    assert!(sandbox.ended().recv().is_err());
    sandboxes.stop();
    assert_eq!(launcher.factory.record().ended, 1);
}

#[test]
fn a_sandbox_is_paused_at_its_time_out_and_resumed_by_a_connect() {
    let (sandboxes, launcher, clock) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), pausing()).unwrap();
    let closed = sandbox.running().unwrap().closed().clone();
    clock.advance(5 * MINUTE);
    sandboxes.clock_moved();
    poll_until(&mut [PollFd::new(closed.as_fd(), PollFlags::POLLIN)], None).unwrap();
    // It waits for the pause to end.
    let connected = sandboxes.connect(&caller("a"), sandbox.id(), MINUTE).unwrap();
    assert!(matches!(connected, Connected::Resumed(_)));
    assert!(sandbox.ended().try_recv().is_err_and(|error| error.is_empty()));
    assert_eq!(sandbox.status().end_at, clock.wall() + MINUTE);
    let record = launcher.factory.record();
    assert_eq!((record.parked.len(), record.assigned.len()), (1, 1));
}

#[test]
fn a_connect_to_a_running_sandbox_never_shortens_its_time() {
    let (sandboxes, _, clock) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let end_at = sandbox.status().end_at;
    let connected = sandboxes.connect(&caller("a"), sandbox.id(), MINUTE).unwrap();
    assert!(matches!(connected, Connected::Running(_)));
    assert_eq!(sandbox.status().end_at, end_at);
    sandboxes.connect(&caller("a"), sandbox.id(), 10 * MINUTE).unwrap();
    assert_eq!(sandbox.status().end_at, clock.wall() + 10 * MINUTE);
}

#[test]
fn a_time_out_of_zero_ends_a_sandbox_at_once() {
    let (sandboxes, _, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.set_timeout(&caller("a"), sandbox.id(), Duration::ZERO).unwrap();
    assert!(sandbox.ended().recv().is_err());
}

#[test]
fn a_time_out_may_be_set_to_less_and_extended_only_to_more() {
    let (sandboxes, _, clock) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.set_timeout(&caller("a"), sandbox.id(), 2 * MINUTE).unwrap();
    sandboxes.extend(&caller("a"), sandbox.id(), MINUTE).unwrap();
    assert_eq!(sandbox.status().end_at, clock.wall() + 2 * MINUTE);
    sandboxes.extend(&caller("a"), sandbox.id(), 3 * MINUTE).unwrap();
    assert_eq!(sandbox.status().end_at, clock.wall() + 3 * MINUTE);
    let too_long = Settings::default().max_timeout + MINUTE;
    let refused = sandboxes.set_timeout(&caller("a"), sandbox.id(), too_long);
    assert!(matches!(refused, Err(Error::TimeoutTooLong { .. })));
}

#[test]
fn a_paused_sandbox_has_no_time_out_and_takes_no_calls() {
    let (sandboxes, _, clock) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.pause(&caller("a"), sandbox.id()).unwrap();
    assert_eq!(sandbox.status().state, State::Paused);
    assert!(sandbox.running().is_none());
    assert!(matches!(sandboxes.enter(&sandbox), Err(Error::Paused { .. })));
    let id = sandbox.id();
    assert!(matches!(sandboxes.pause(&caller("a"), id), Err(Error::Paused { .. })));
    assert!(matches!(sandboxes.set_timeout(&caller("a"), id, MINUTE), Err(Error::Paused { .. })));
    clock.advance(100 * MINUTE);
    sandboxes.clock_moved();
    let connected = sandboxes.connect(&caller("a"), id, MINUTE).unwrap();
    assert!(matches!(connected, Connected::Resumed(_)));
}

#[test]
fn a_request_resumes_a_sandbox_that_asked_for_it() {
    let (sandboxes, _, clock) = registry(Script::default());
    let lifecycle = Lifecycle { pauses_on_timeout: true, resumes_on_request: true };
    let timeout = Some(MINUTE);
    let sandbox =
        sandboxes.create(&caller("a"), CreateRequest { lifecycle, timeout, ..request() }).unwrap();
    sandboxes.pause(&caller("a"), sandbox.id()).unwrap();
    let running = sandboxes.enter(&sandbox).unwrap();
    assert!(!running.closed().is_set());
    assert_eq!(sandbox.status().end_at, clock.wall() + 5 * MINUTE);
}

#[test]
fn a_sandbox_that_cannot_be_resumed_is_ended() {
    let (sandboxes, launcher, _) = registry(Script::default().stubborn());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.pause(&caller("a"), sandbox.id()).unwrap();
    let resumed = sandboxes.connect(&caller("a"), sandbox.id(), MINUTE);
    assert!(matches!(resumed, Err(Error::Resume { .. })));
    assert!(sandbox.ended().recv().is_err());
    assert!(sandboxes.find(sandbox.id()).is_none());
    assert_eq!(launcher.factory.record().ended, 1);
}

#[test]
fn a_sandbox_without_room_to_resume_stays_paused() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.pause(&caller("a"), sandbox.id()).unwrap();
    *launcher.is_full.lock() = true;
    let resumed = sandboxes.connect(&caller("a"), sandbox.id(), MINUTE);
    assert!(matches!(resumed, Err(Error::Launch(LaunchError::NoRoom { .. }))));
    assert_eq!(sandbox.status().state, State::Paused);
    *launcher.is_full.lock() = false;
    sandboxes.connect(&caller("a"), sandbox.id(), MINUTE).unwrap();
}

#[test]
fn a_sandbox_ends_with_its_vm() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let paused = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.pause(&caller("a"), paused.id()).unwrap();
    let vms = launcher.vms.lock().clone();
    vms.iter().for_each(|vm| launcher.factory.end(*vm));
    assert!(sandbox.ended().recv().is_err());
    assert!(paused.ended().recv().is_err());
    assert!(sandboxes.find(sandbox.id()).is_none());
}

#[test]
fn a_killed_sandbox_that_is_being_paused_or_resumed_is_ended_by_that_call() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    let vm = sandbox.life().begin_pause().unwrap();
    assert!(matches!(sandboxes.pause(&caller("a"), sandbox.id()), Err(Error::Pausing { .. })));
    sandboxes.kill(&caller("a"), sandbox.id()).unwrap();
    assert_eq!(launcher.factory.record().ended, 0);
    let paused = sandboxes.registry.finish_pause(&sandbox, vm);
    assert!(matches!(paused, Err(Error::NotFound { .. })));
    assert_eq!(launcher.factory.record().ended, 1);
}

#[test]
fn the_limits_of_a_key_are_for_all_of_its_sandboxes() {
    let (sandboxes, _, _) = registry(Script::default());
    let limits = Limits { sandboxes: Some(1), ..Limits::default() };
    let limited = Caller { limits, ..caller("a") };
    let sandbox = sandboxes.create(&limited, request()).unwrap();
    assert!(matches!(sandboxes.create(&limited, request()), Err(Error::TooMany(_))));
    sandboxes.create(&caller("b"), request()).unwrap();
    sandboxes.kill(&limited, sandbox.id()).unwrap();
    drop(sandbox);
    sandboxes.create(&limited, request()).unwrap();
}

#[test]
fn a_launch_that_failed_takes_nothing_of_the_limits() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let limits = Limits { sandboxes: Some(1), ..Limits::default() };
    let limited = Caller { limits, ..caller("a") };
    *launcher.is_full.lock() = true;
    assert!(matches!(sandboxes.create(&limited, request()), Err(Error::Launch(_))));
    *launcher.is_full.lock() = false;
    sandboxes.create(&limited, request()).unwrap();
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let (sandboxes, _, _) = registry(Script::default());
    let create = |request| sandboxes.create(&caller("a"), request);
    let unknown = CreateRequest::new("unknown");
    assert!(matches!(create(unknown), Err(Error::NoTemplate { .. })));
    let timeout = Some(Duration::ZERO);
    assert!(matches!(create(CreateRequest { timeout, ..request() }), Err(Error::NoTimeout)));
    let timeout = Some(Duration::from_secs(u64::MAX));
    let refused = create(CreateRequest { timeout, ..request() });
    assert!(matches!(refused, Err(Error::TimeoutTooLong { .. })));
}

#[test]
fn a_stopped_registry_has_ended_all_sandboxes_and_takes_none() {
    let (sandboxes, launcher, _) = registry(Script::default());
    let sandbox = sandboxes.create(&caller("a"), request()).unwrap();
    sandboxes.create(&caller("b"), request()).unwrap();
    sandboxes.stop();
    assert!(sandbox.ended().recv().is_err());
    assert_eq!(launcher.factory.record().ended, 2);
    assert!(matches!(sandboxes.create(&caller("a"), request()), Err(Error::Stopping)));
}

fn ids(page: &Page) -> Vec<String> {
    page.sandboxes.iter().map(|(sandbox, _)| sandbox.id().to_owned()).collect()
}

/// Three sandboxes, a minute apart.
fn three() -> (Arc<Sandboxes>, Vec<String>, SystemTime) {
    let (sandboxes, _, clock) = registry(Script::default());
    let start = clock.wall();
    let names = ["one", "two", "three"];
    let created = names.map(|name| {
        let metadata = [("name".to_owned(), name.to_owned()), ("set".to_owned(), "3".to_owned())];
        let timeout = Some(60 * MINUTE);
        let request = CreateRequest { metadata: metadata.into(), timeout, ..request() };
        let sandbox = sandboxes.create(&caller("a"), request).unwrap();
        clock.advance(MINUTE);
        sandbox.id().to_owned()
    });
    (sandboxes, created.into(), start)
}

#[test]
fn a_list_has_the_newest_sandbox_first_unless_asked_otherwise() {
    let (sandboxes, created, _) = three();
    let newest = sandboxes.list(&caller("a"), &Filter::default()).unwrap();
    assert_eq!(ids(&newest), created.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!((newest.next.is_none(), newest.running), (true, 3));
    let oldest = Filter { order: Order::Ascending, ..Filter::default() };
    assert_eq!(ids(&sandboxes.list(&caller("a"), &oldest).unwrap()), created);
}

#[test]
fn a_list_is_read_page_by_page() {
    let (sandboxes, created, _) = three();
    let first = Filter { order: Order::Ascending, limit: Some(2), ..Filter::default() };
    let page = sandboxes.list(&caller("a"), &first).unwrap();
    assert_eq!(ids(&page), created[..2]);
    // The place of the next page is known without the sandbox that it follows.
    sandboxes.kill(&caller("a"), &created[1]).unwrap();
    let second = Filter { token: page.next, ..first.clone() };
    let page = sandboxes.list(&caller("a"), &second).unwrap();
    assert_eq!((ids(&page), page.next), (created[2..].to_vec(), None));
    let wrong = Filter { token: Some("x".to_owned()), ..first };
    assert!(matches!(sandboxes.list(&caller("a"), &wrong), Err(Error::BadToken)));
}

#[test]
fn a_list_has_only_the_sandboxes_that_its_filter_takes() {
    let (sandboxes, created, start) = three();
    sandboxes.pause(&caller("a"), &created[0]).unwrap();
    let list = |filter| ids(&sandboxes.list(&caller("a"), &filter).unwrap());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let two = vec![pair("name", "two"), pair("set", "3")];
    assert_eq!(list(Filter { metadata: two, ..Filter::default() }), created[1..2]);
    let none = vec![pair("name", "two"), pair("set", "4")];
    assert!(list(Filter { metadata: none, ..Filter::default() }).is_empty());
    let paused = Filter { states: vec![State::Paused], ..Filter::default() };
    assert_eq!(list(paused), created[..1]);
    let started_after = Some(start + 2 * MINUTE);
    assert_eq!(list(Filter { started_after, ..Filter::default() }), created[2..]);
    let template = |name: &str| Filter { template: Some(name.to_owned()), ..Filter::default() };
    assert_eq!(list(template("base")).len(), 3);
    assert_eq!(list(template("default")).len(), 3);
    assert!(list(template("unknown")).is_empty());
}
