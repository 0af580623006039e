//! The webhooks of guests. Each names its run, which the token must be for. The body of a request
//! with an unknown token, or with the token of a lost attempt, is not read.

use contract::CompleteRequest;
use http_server::{Account, Method, Request, Response};
use serde::Deserialize;
use serde_json::json;

use super::{ORDINARY, json, only, reply, token};
use crate::backend::Backend;
use crate::key::Tag;
use crate::storage::{LARGEST_LIST, StorageRequest, Writer};
use crate::{Refusal, Result, RunId};

/// The limit of a batch is 512 KiB, but a single event may be larger.
const EVENTS: u64 = 8 << 20;

const TELEMETRY: u64 = 2 << 20;
const FIREWALL: u64 = 256 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    run_id: RunId,
}

pub(super) fn answer(
    backend: &Backend,
    request: &mut Request<'_>,
    path: &[&str],
) -> Result<Response> {
    only(&request.head, Method::Post)?;
    let token = token(&request.head)?;
    let account = Account::Client(backend.owner(&token)?);
    match *path {
        ["heartbeat"] => {
            let run: Run = json(request, ORDINARY, account)?;
            backend.take_heartbeat(&token, run.run_id)?;
            Ok(reply::json(&json!({"ok": true})))
        }
        ["events"] => {
            let batch = json(request, EVENTS, account)?;
            Ok(reply::json(&backend.take_events(&token, batch)?))
        }
        ["telemetry"] => {
            let report = json(request, TELEMETRY, account)?;
            Ok(reply::json(&backend.take_report(&token, report)?))
        }
        ["complete"] => {
            let CompleteRequest { run_id, completion } = json(request, ORDINARY, account)?;
            Ok(reply::json(&backend.complete(&token, run_id, completion)?))
        }
        ["checkpoints", ref rest @ ..] => checkpoint(backend, request, (token, account), rest),
        ["warnings"] => {
            backend.take_warnings(&token, json(request, ORDINARY, account)?)?;
            Ok(reply::json(&json!({"success": true})))
        }
        ["storages", "prepare"] => {
            let storage: StorageRequest = json(request, LARGEST_LIST, account)?;
            let writer = writer(token, &storage)?;
            let base = request.origin()?;
            Ok(reply::json(&backend.prepare(writer, storage, &base)?))
        }
        ["storages", "commit"] => {
            let storage: StorageRequest = json(request, LARGEST_LIST, account)?;
            let writer = writer(token, &storage)?;
            Ok(reply::json(&backend.commit(writer, storage)?))
        }
        ["firewall", "auth"] => {
            request.body.load(FIREWALL, account)?;
            Err(Refusal::NoFirewallAuth.into())
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

/// The calls below `checkpoints`.
fn checkpoint(
    backend: &Backend,
    request: &mut Request<'_>,
    (token, account): (Tag, Account),
    path: &[&str],
) -> Result<Response> {
    match *path {
        [] => {
            let id = backend.take_checkpoint(&token, json(request, ORDINARY, account)?)?;
            Ok(reply::json(&json!({"checkpointId": id})))
        }
        ["prepare-history"] => {
            let announcement = json(request, ORDINARY, account)?;
            let base = request.origin()?;
            Ok(reply::json(&backend.prepare_history(&token, announcement, &base)?))
        }
        // Extensions of this platform. Other platforms reject them, and guests continue without.
        ["partial", "prepare"] => {
            let run: Run = json(request, ORDINARY, account)?;
            backend.expect_partial_checkpoint(&token, run.run_id)?;
            Ok(reply::json(&json!({"accepted": true})))
        }
        ["partial"] => {
            let partial = json(request, ORDINARY, account)?;
            let id = backend.take_partial_checkpoint(&token, partial)?;
            Ok(reply::json(&json!({"checkpointId": id})))
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

fn writer(token: Tag, request: &StorageRequest) -> Result<Writer, Refusal> {
    let operators = [
        (request.archive_hash.is_some(), "archiveHash"),
        (request.archive_size.is_some(), "archiveSize"),
        (request.parts.is_some(), "parts"),
    ];
    if let Some((_, name)) = operators.into_iter().find(|(is_sent, _)| *is_sent) {
        return Err(Refusal::bad(format!("unknown field `{name}`")));
    }
    let run = request.run_id.ok_or_else(|| Refusal::bad("missing field `runId`"))?;
    Ok(Writer::Guest(token, run))
}
