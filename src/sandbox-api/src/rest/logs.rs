//! The calls for what happened to a sandbox.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use http_server::Response;
use log::Level;
use serde::Serialize;
use serde_json::{Value, json};

use super::context::{Call, json as reply};
use super::refused::Refused;
use super::shown::time;
use crate::event_log::{COMMAND, LoggedEvent};
use crate::key::Scope;
use crate::sandboxes::{Caller, Sandboxes};

/// The most events in a reply.
const MOST: usize = 1000;

#[derive(Serialize)]
struct Entry {
    timestamp: String,
    level: String,
    message: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl From<LoggedEvent> for Entry {
    fn from(event: LoggedEvent) -> Self {
        let LoggedEvent { at, level, logger, message, mut fields } = event;
        fields.insert("logger", logger.to_owned());
        Self { timestamp: time(at), level: level.as_str().to_ascii_lowercase(), message, fields }
    }
}

impl Entry {
    /// The entry as clients of the older call have it: its members and its fields are one object.
    fn line(&self) -> Value {
        let mut line = json!(self.fields);
        line["level"] = json!(self.level);
        line["message"] = json!(self.message);
        json!({"timestamp": self.timestamp, "line": line.to_string()})
    }
}

/// `GET /sandboxes/{id}/logs`: also as lines of JSON, which older clients read.
pub(super) fn lines(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let (start, limit) = (number(call, "start")?, limit(call)?);
    let events = events(&call.context.sandboxes, &call.caller, call.id(), call.scope)?;
    let asked = events.into_iter().filter(|event| start.is_none_or(|start| millis(event) >= start));
    let entries: Vec<_> = asked.take(limit).map(Entry::from).collect();
    let lines: Vec<_> = entries.iter().map(Entry::line).collect();
    reply(200, &json!({"logs": lines, "logEntries": entries}))
}

/// `GET /v2/sandboxes/{id}/logs`
pub(super) fn entries(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let (cursor, limit) = (number(call, "cursor")?, limit(call)?);
    let is_backward = is_backward(call)?;
    let (least, search) = (level(call)?, call.query("search")?);
    let mut events = events(&call.context.sandboxes, &call.caller, call.id(), call.scope)?;
    events.retain(|event| {
        let is_there = cursor.is_none_or(|cursor| {
            if is_backward { millis(event) <= cursor } else { millis(event) >= cursor }
        });
        let is_found = search.as_ref().is_none_or(|search| event.message.contains(search));
        is_there && is_found && event.level <= least
    });
    if is_backward {
        events.reverse();
    }
    let entries: Vec<_> = events.into_iter().take(limit).map(Entry::from).collect();
    reply(200, &json!({"logs": entries}))
}

/// All events, the oldest first. A caller that may only read does not see command lines.
pub(super) fn events(
    sandboxes: &Sandboxes,
    caller: &Caller,
    id: &str,
    scope: Scope,
) -> Result<Vec<LoggedEvent>, Refused> {
    let mut events = sandboxes.get(caller, id)?.log().all();
    if scope == Scope::Read {
        for event in &mut events {
            event.fields.remove(COMMAND);
        }
    }
    Ok(events)
}

fn is_backward(call: &Call<'_, '_>) -> Result<bool, Refused> {
    match call.query("direction")?.as_deref() {
        None | Some("forward") => Ok(false),
        Some("backward") => Ok(true),
        Some(other) => {
            Err(Refused::bad(format!("`direction` is `{other}`: forward and backward are known")))
        }
    }
}

fn level(call: &Call<'_, '_>) -> Result<Level, Refused> {
    let Some(text) = call.query("level")? else { return Ok(Level::Debug) };
    let level = Level::from_str(&text).ok().filter(|level| *level != Level::Trace);
    level.ok_or_else(|| {
        Refused::bad(format!("`level` is `{text}`: debug, info, warn and error are known"))
    })
}

fn limit(call: &Call<'_, '_>) -> Result<usize, Refused> {
    let limit = number(call, "limit")?.map(usize::try_from);
    Ok(limit.map_or(MOST, |limit| limit.unwrap_or(MOST).min(MOST)))
}

fn number(call: &Call<'_, '_>, name: &str) -> Result<Option<u128>, Refused> {
    let number = call.query(name)?.map(|text| {
        text.parse().map_err(|_| Refused::bad(format!("`{name}` is `{text}`, not a number")))
    });
    number.transpose()
}

/// Milliseconds since 1970.
fn millis(event: &LoggedEvent) -> u128 {
    event.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
