//! The API of operators and submitters, over the Unix socket or with a token. [`Client`](crate::Client) is its
//! client.

use std::time::Duration;

use http_server::{Account, Head, Method, Peer, Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ORDINARY, content, hold, json, reply};
use crate::backend::Backend;
use crate::fleet::Order;
use crate::principal::Principal;
use crate::storage::{LARGEST_LIST, Writer};
use crate::store::Store;
use crate::token::{NewToken, Role};
use crate::{Refusal, Result, RunId};

/// Prompts may be long.
const SUBMISSION: u64 = 16 << 20;

/// The body of `POST /v1/prune`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Prune {
    pub(crate) keep_ms: u64,
}

pub(super) fn answer(
    backend: &Backend,
    request: &mut Request<'_>,
    path: &[&str],
) -> Result<Response> {
    let by = &authenticate(backend, request)?;
    let method = request.head.method;
    let account = by.account();
    match (method, path) {
        (Method::Get, ["jobs"]) => list(backend, &request.head, by),
        (Method::Post, ["jobs"]) => {
            let submission = json(request, SUBMISSION, account)?;
            Ok(reply::json(&backend.submit(submission, by)?))
        }
        (Method::Get, ["jobs", run, rest @ ..]) => {
            job(backend, &request.head, backend.resolve(run, by)?, rest)
        }
        (Method::Post, ["jobs", run, "cancel"]) => {
            backend.cancel(backend.resolve(run, by)?, by)?;
            Ok(reply::json(&json!({"ok": true})))
        }
        // The URLs of uploads have no host: the client knows one that reaches the platform.
        (Method::Post, ["storages", "prepare"]) => {
            let storage = json(request, LARGEST_LIST, account)?;
            Ok(reply::json(&backend.prepare(Writer::Principal(by.clone()), storage, "")?))
        }
        (Method::Post, ["storages", "commit"]) => {
            let storage = json(request, LARGEST_LIST, account)?;
            Ok(reply::json(&backend.commit(Writer::Principal(by.clone()), storage)?))
        }
        _ => {
            by.check_operator()?;
            operate(backend, request, path)
        }
    }
}

/// Over the Unix socket the host's own user, or root; else the holder of a token.
fn authenticate(backend: &Backend, request: &Request<'_>) -> Result<Principal> {
    if request.peer == Peer::Unix {
        return Ok(Principal::Host);
    }
    let grant = backend.grant(request.head.bearer().ok_or(Refusal::Unauthenticated)?)?;
    match grant.role {
        Role::Operator => Ok(Principal::Operator(grant.name)),
        Role::Submitter => Ok(Principal::Submitter(grant.name)),
        Role::Runner => Err(Refusal::WrongRole {
            name: grant.name,
            found: Role::Runner.name(),
            wanted: "operator or submitter",
        }
        .into()),
    }
}

/// The calls for operators only.
fn operate(backend: &Backend, request: &mut Request<'_>, path: &[&str]) -> Result<Response> {
    match (request.head.method, path) {
        (Method::Get, ["runners"]) => Ok(reply::json(&backend.runners()?)),
        (Method::Post, ["runners", name, order]) => {
            let order = Order::of(order).ok_or(Refusal::NoRoute)?;
            Ok(reply::json(&backend.rule(&unescape(name)?, order)?))
        }
        (Method::Post, ["prune"]) => {
            let prune: Prune = json(request, ORDINARY, Account::Trusted)?;
            Ok(reply::json(&backend.prune(Duration::from_millis(prune.keep_ms))?))
        }
        (Method::Get, ["tokens"]) => Ok(reply::json(&backend.tokens()?)),
        (Method::Post, ["tokens"]) => {
            let new: NewToken = json(request, ORDINARY, Account::Trusted)?;
            Ok(reply::json(&backend.create_token(new)?))
        }
        (Method::Post, ["tokens", name, "revoke"]) => {
            backend.revoke_token(name)?;
            Ok(reply::json(&json!({"ok": true})))
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

fn list(backend: &Backend, head: &Head, by: &Principal) -> Result<Response> {
    let before = head.parameter("before").map(|text| backend.resolve(text, by)).transpose()?;
    let limit = head.parameter("limit").and_then(|text| text.parse().ok()).unwrap_or(100);
    Ok(reply::json(&backend.jobs(before, limit, by)?))
}

fn job(backend: &Backend, head: &Head, run: RunId, path: &[&str]) -> Result<Response> {
    let after = head.parameter("after").and_then(|text| text.parse().ok()).unwrap_or(0);
    let hold = hold(backend, head);
    match *path {
        [] => Ok(reply::json(&backend.job(run)?)),
        ["end"] => Ok(reply::json(&backend.ended_job(run, hold)?)),
        ["events"] => Ok(reply::json(&backend.events(run, after, hold)?)),
        ["telemetry"] => Ok(reply::json(&backend.telemetry(run, after, hold)?)),
        ["checkpoint"] => Ok(reply::json(&backend.checkpoint(run)?)),
        ["artifacts", name] => {
            let archive = backend.artifact(run, &unescape(name)?)?;
            match &backend.store {
                Store::Files(blobs) => content::blob(blobs, head, &archive),
                Store::Bucket(objects) => {
                    Ok(Response::new(307).with("Location", objects.download_url(&archive)))
                }
            }
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

/// Decodes a name in a path's segment. It is in hex, as names may have any character.
pub(crate) fn escape(name: &str) -> String {
    base::hex::encode(name.as_bytes())
}

fn unescape(text: &str) -> Result<String, Refusal> {
    let malformed = || Refusal::bad("a name must be in hex");
    let digits = text.as_bytes().chunks(2);
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    String::from_utf8(bytes.ok_or_else(malformed)?).map_err(|_| malformed())
}
