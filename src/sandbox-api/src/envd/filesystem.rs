//! The service `filesystem.Filesystem`. Operations have the rights of the call's user.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Instant;

use base::event::Event;
use connect_rpc::{Code, Error};
use http_server::{BodyWriter, Response, Wake};
use serde_json::json;

use super::call::{Answer, Call, Kind, file_error, reply, stream};
use super::entry::{entry, event};
use super::follow::{Pings, aborted, send, timed_out};
use super::message::OnPath;
use crate::files::{self, Code as FileCode, Watch, WatchItem, WatchScope};

pub(super) fn find(path: &str) -> Option<(Kind, Answer)> {
    let answer: (Kind, Answer) = match path.strip_prefix("/filesystem.Filesystem/")? {
        "Stat" => (Kind::Unary, stat),
        "ListDir" => (Kind::Unary, list),
        "MakeDir" => (Kind::Unary, make_dir),
        "Move" => (Kind::Unary, move_entry),
        "Remove" => (Kind::Unary, remove),
        "WatchDir" => (Kind::Stream, watch_dir),
        "CreateWatcher" => (Kind::Unary, create_watcher),
        "GetWatcherEvents" => (Kind::Unary, watcher_events),
        "RemoveWatcher" => (Kind::Unary, remove_watcher),
        _ => return None,
    };
    Some(answer)
}

fn stat(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { path, .. } = call.message()?;
    let (login, deadline) = (call.login()?, call.deadline()?);
    let found = login.files(call.running).stat(or_home(&path), deadline);
    reply(&json!({"entry": entry(&found.map_err(|error| failed(&path, &error))?)}))
}

fn list(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { path, depth, .. } = call.message()?;
    let (login, deadline) = (call.login()?, call.deadline()?);
    let depth = depth.unwrap_or(0).max(1);
    let listing = login.files(call.running).list(or_home(&path), depth, deadline);
    let listing = listing.map_err(|error| failed(&path, &error))?;
    let entries: Vec<_> = listing.entries.iter().map(entry).collect();
    reply(&json!({"entries": entries}))
}

fn make_dir(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { path, .. } = call.message()?;
    let (login, deadline) = (call.login()?, call.deadline()?);
    let made = login.files(call.running).make_dir(or_home(&path), deadline);
    let (made, is_new) = made.map_err(|error| failed(&path, &error))?;
    if !is_new {
        let message = format!("directory already exists: {}", made.path);
        return Err(Error::new(Code::AlreadyExists, message));
    }
    reply(&json!({"entry": entry(&made)}))
}

fn move_entry(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { source, destination, .. } = call.message()?;
    let (login, deadline) = (call.login()?, call.deadline()?);
    let moved = login.files(call.running).move_entry(&source, &destination, deadline);
    reply(&json!({"entry": entry(&moved.map_err(|error| file_error(&error))?)}))
}

fn remove(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { path, .. } = call.message()?;
    let (login, deadline) = (call.login()?, call.deadline()?);
    match login.files(call.running).remove(&path, deadline) {
        Err(error) if error.code() != Some(FileCode::NotFound) => Err(file_error(&error)),
        _ => reply(&json!({})),
    }
}

fn create_watcher(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message = call.message()?;
    let watch = begin_watch(call, &message)?;
    let name = call.sandbox.watchers().add(watch).map_err(|error| file_error(&error))?;
    reply(&json!({"watcherId": name}))
}

fn watcher_events(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { watcher_id, .. } = call.message()?;
    let events =
        call.sandbox.watchers().events(&watcher_id, call.running.closed(), call.deadline()?);
    let events = events.map_err(|error| file_error(&error))?;
    reply(&json!({"events": events.iter().map(event).collect::<Vec<_>>()}))
}

fn remove_watcher(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let OnPath { watcher_id, .. } = call.message()?;
    if !call.sandbox.watchers().remove(&watcher_id) {
        let message = format!("watcher with id {watcher_id} not found");
        return Err(Error::new(Code::NotFound, message));
    }
    reply(&json!({}))
}

fn watch_dir(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message = call.first()?;
    let watch = begin_watch(call, &message)?;
    let (closed, pings) = (Arc::clone(call.running.closed()), Pings::new(call.ping_interval()));
    let ends_at = call.timeout()?.map(|timeout| Instant::now() + timeout);
    Ok(stream(move |writer| follow(Follow { writer, closed, pings, ends_at }, watch)))
}

/// The stream of a watch.
struct Follow<'a, 'b> {
    writer: &'a mut BodyWriter<'b>,
    /// Set when the sandbox is paused or ended.
    closed: Arc<Event>,
    pings: Pings,
    ends_at: Option<Instant>,
}

/// Sends changes until the client goes, or the sandbox is paused or ended.
fn follow(stream: Follow<'_, '_>, mut watch: Watch) -> io::Result<()> {
    let Follow { writer, closed, mut pings, ends_at } = stream;
    send(writer, &json!({"start": {}}))?;
    loop {
        match watch.try_next() {
            Ok(Some(WatchItem::Event(changed))) => {
                send(writer, &json!({"filesystem": event(&changed)}))?;
                pings.restart();
                continue;
            }
            Ok(Some(WatchItem::Synced)) => continue,
            Ok(None) => {}
            Err(_) if closed.is_set() => return Err(aborted()),
            Err(files::Error::Sandbox(_)) => return Err(aborted()),
            Err(error) if error.code() == Some(FileCode::Gone) => {
                return writer.write_all(&connect_rpc::end(Ok(())));
            }
            Err(error) => return writer.write_all(&connect_rpc::end(Err(&file_error(&error)))),
        }
        let woken = writer.wait(&[watch.wake(), &closed], Some(pings.next(ends_at)))?;
        if woken == Wake::Gone || closed.is_set() {
            return Err(aborted());
        }
        if ends_at.is_some_and(|time| time <= Instant::now()) {
            return writer.write_all(&connect_rpc::end(Err(&timed_out())));
        }
        // One who reads nothing any more is found out by writing.
        if woken == Wake::HalfClosed || pings.is_due() {
            send(writer, &json!({"keepalive": {}}))?;
            pings.restart();
        }
    }
}

fn begin_watch(call: &Call<'_, '_>, message: &OnPath) -> Result<Watch, Error> {
    let scope = WatchScope {
        recursive: message.recursive,
        include_entry: message.include_entry,
        allow_network: message.allow_network_mounts,
    };
    let login = call.login()?;
    let watch = login.files(call.running).watch(or_home(&message.path), scope, call.soon());
    watch.map_err(|error| failed(&message.path, &error))
}

/// An empty path is the user's home.
fn or_home(path: &str) -> &str {
    if path.is_empty() { "~" } else { path }
}

/// The error of an operation on a path, in the words that clients know where they look at them.
fn failed(path: &str, error: &files::Error) -> Error {
    let message = match error.code() {
        Some(FileCode::NotFound) => format!("file not found: {path}"),
        Some(FileCode::NotADirectory) => format!("path is not a directory: {path}"),
        _ => return file_error(error),
    };
    Error::new(file_error(error).code, message)
}
