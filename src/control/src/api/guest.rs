//! What guests tell, and ask for: the webhooks. Each names its run, which the token must be for.

use serde::Deserialize;
use serde_json::json;

use super::{ORDINARY, json, only, token};
use crate::attempt::Completion;
use crate::http::{Method, Request, Response};
use crate::platform::Platform;
use crate::storage::{LARGEST_LIST, Request as StorageRequest, Writer};
use crate::{Refusal, Result, RunId};

/// A batch has 512 KiB, but one event alone may have more.
const EVENTS: u64 = 8 << 20;

const TELEMETRY: u64 = 2 << 20;
const FIREWALL: u64 = 256 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    run_id: RunId,
}

#[derive(Deserialize)]
struct Complete {
    #[serde(flatten)]
    run: Run,
    #[serde(flatten)]
    completion: Completion,
}

pub(super) fn answer(
    platform: &Platform,
    request: &mut Request<'_>,
    path: &[&str],
) -> Result<Response> {
    only(&request.head, Method::Post)?;
    let token = token(&request.head)?;
    match *path {
        ["heartbeat"] => {
            let run: Run = json(request, ORDINARY)?;
            platform.take_heartbeat(&token, run.run_id)?;
            Ok(Response::json(&json!({"ok": true})))
        }
        ["events"] => {
            let batch = json(request, EVENTS)?;
            Ok(Response::json(&platform.take_events(&token, batch)?))
        }
        ["telemetry"] => {
            let report = json(request, TELEMETRY)?;
            Ok(Response::json(&platform.take_report(&token, report)?))
        }
        ["complete"] => {
            let Complete { run, completion } = json(request, ORDINARY)?;
            Ok(Response::json(&platform.complete(&token, run.run_id, completion)?))
        }
        ["checkpoints"] => {
            let id = platform.take_checkpoint(&token, json(request, ORDINARY)?)?;
            Ok(Response::json(&json!({"checkpointId": id})))
        }
        ["checkpoints", "prepare-history"] => {
            let announcement = json(request, ORDINARY)?;
            let base = request.head.origin()?;
            Ok(Response::json(&platform.prepare_history(&token, announcement, &base)?))
        }
        ["storages", "prepare"] => {
            let storage: StorageRequest = json(request, LARGEST_LIST)?;
            let writer = writer(token, &storage)?;
            let base = request.head.origin()?;
            Ok(Response::json(&platform.prepare(writer, storage, &base)?))
        }
        ["storages", "commit"] => {
            let storage: StorageRequest = json(request, LARGEST_LIST)?;
            let writer = writer(token, &storage)?;
            Ok(Response::json(&platform.commit(writer, storage)?))
        }
        ["firewall", "auth"] => {
            request.body.read(FIREWALL)?;
            Err(Refusal::NoFirewallAuth.into())
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

fn writer(token: crate::key::Tag, request: &StorageRequest) -> Result<Writer, Refusal> {
    if request.archive_hash.is_some() {
        return Err(Refusal::bad("unknown field `archiveHash`"));
    }
    let run = request.run_id.ok_or_else(|| Refusal::bad("missing field `runId`"))?;
    Ok(Writer::Guest(token, run))
}
