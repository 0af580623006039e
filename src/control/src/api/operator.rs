//! What the operator asks, over the Unix socket. [`Client`](crate::Client) is the other end.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ORDINARY, content, hold, json};
use crate::http::{Account, Head, Method, Request, Response};
use crate::platform::Platform;
use crate::storage::{LARGEST_LIST, Writer};
use crate::{Refusal, Result, RunId};

/// Prompts may be long.
const SUBMISSION: u64 = 16 << 20;

/// What is to be pruned.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Prune {
    pub(crate) keep_ms: u64,
}

pub(super) fn answer(
    platform: &Platform,
    request: &mut Request<'_>,
    path: &[&str],
) -> Result<Response> {
    let method = request.head.method;
    match (method, path) {
        (Method::Get, ["runners"]) => Ok(Response::json(&platform.presence.runners())),
        (Method::Get, ["jobs"]) => list(platform, &request.head),
        (Method::Post, ["jobs"]) => {
            let submission = json(request, SUBMISSION, Account::Trusted)?;
            Ok(Response::json(&platform.submit(submission)?))
        }
        (Method::Get, ["jobs", run, rest @ ..]) => {
            job(platform, &request.head, platform.resolve(run)?, rest)
        }
        (Method::Post, ["jobs", run, "cancel"]) => {
            platform.cancel(platform.resolve(run)?)?;
            Ok(Response::json(&json!({"ok": true})))
        }
        (Method::Post, ["storages", "prepare"]) => {
            let storage = json(request, LARGEST_LIST, Account::Trusted)?;
            Ok(Response::json(&platform.prepare(Writer::Operator, storage, "")?))
        }
        (Method::Post, ["storages", "commit"]) => {
            let storage = json(request, LARGEST_LIST, Account::Trusted)?;
            Ok(Response::json(&platform.commit(Writer::Operator, storage)?))
        }
        (Method::Post, ["prune"]) => {
            let prune: Prune = json(request, ORDINARY, Account::Trusted)?;
            Ok(Response::json(&platform.prune(Duration::from_millis(prune.keep_ms))?))
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

fn list(platform: &Platform, head: &Head) -> Result<Response> {
    let before = head.parameter("before").map(|text| platform.resolve(text)).transpose()?;
    let limit = head.parameter("limit").and_then(|text| text.parse().ok()).unwrap_or(100);
    Ok(Response::json(&platform.jobs(before, limit)?))
}

fn job(platform: &Platform, head: &Head, run: RunId, path: &[&str]) -> Result<Response> {
    let after = head.parameter("after").and_then(|text| text.parse().ok()).unwrap_or(0);
    let hold = hold(platform, head);
    match *path {
        [] => Ok(Response::json(&platform.job(run)?)),
        ["end"] => Ok(Response::json(&platform.ended_job(run, hold)?)),
        ["events"] => Ok(Response::json(&platform.events(run, after, hold)?)),
        ["telemetry"] => Ok(Response::json(&platform.telemetry(run, after, hold)?)),
        ["checkpoint"] => Ok(Response::json(&platform.checkpoint(run)?)),
        ["artifacts", name] => {
            let name = unescape(name)?;
            content::blob(&platform.blobs, head, &platform.artifact(run, &name)?)
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

/// A name as a path's segment, its bytes in hex: names may have any letter.
pub(crate) fn escape(name: &str) -> String {
    crate::key::hex(name.as_bytes())
}

fn unescape(text: &str) -> Result<String, Refusal> {
    let malformed = || Refusal::bad("an artifact's name is sent in hex");
    let digits = text.as_bytes().chunks(2);
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    String::from_utf8(bytes.ok_or_else(malformed)?).map_err(|_| malformed())
}
