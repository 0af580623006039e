//! The runners' API: poll, claim, heartbeat.
//!
//! Without push, a runner learns of cancellations from `cancelledRunIds`, a member that this
//! platform adds to the contract's replies to poll and heartbeat. A cancellation ends a held poll
//! at once, and each heartbeat's reply lists all of them until the jobs have ended. A runner that
//! ignores the member loses the attempt after its grace period, and the token is revoked.
//!
//! The member also lists lost attempts of the runner, as it must end their VMs. It is about the
//! jobs that the runner had when it sent the request, not about later claims.

use http_server::{Account, Method, Request, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ORDINARY, json, only, reply};
use crate::attempt::{Claimant, Wanted};
use crate::backend::Backend;
use crate::presence::{HeldSession, Runner};
use crate::token::Grant;
use crate::{Refusal, Result, RunId};

const MOST_EXCLUDED: usize = 128;
const MOST_SESSIONS: usize = 1024;

/// The most bytes of a session's id and profile that are stored.
const LONGEST_SESSION: usize = 512;

const LONGEST_VERSION: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Poll {
    runner_id: Uuid,
    group: String,
    supported_profiles: Vec<String>,
    excluded_run_ids: Option<Vec<RunId>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat {
    runner_id: Uuid,
    runner_name: String,
    group: String,
    snapshot_generation: i64,
    snapshot_sequence: i64,
    total_vcpu: f64,
    total_memory_mb: f64,
    max_concurrent: u64,
    #[serde(default)]
    allocated_vcpu: f64,
    #[serde(default)]
    allocated_memory_mb: f64,
    running_count: u64,
    admittable_profiles: Vec<String>,
    held_session_states: Vec<HeldSessionState>,
    mode: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeldSessionState {
    session_id: String,
    last_completed_at: i64,
    reusable_sandbox: Option<ReusableSandbox>,
}

#[derive(Deserialize)]
struct ReusableSandbox {
    profile: String,
}

pub(super) fn answer(
    backend: &Backend,
    request: &mut Request<'_>,
    path: &[&str],
) -> Result<Response> {
    let token = request.head.bearer();
    let grant = match *path {
        ["poll" | "heartbeat"] => backend.recent_runner_grant(token),
        _ => backend.runner_grant(token),
    }?;
    only(&request.head, Method::Post)?;
    match *path {
        ["poll"] => poll(backend, request, &grant),
        ["heartbeat"] => heartbeat(backend, request, &grant),
        ["jobs", run, "claim"] => claim(backend, request, run, grant),
        ["realtime", "token"] => Err(Refusal::NoRealtime.into()),
        _ => Err(Refusal::NoRoute.into()),
    }
}

fn poll(backend: &Backend, request: &mut Request<'_>, grant: &Grant) -> Result<Response> {
    let poll: Poll = json(request, ORDINARY, Account::Trusted)?;
    check_group(&poll.group)?;
    grant.check_group(&poll.group)?;
    let excluded = poll.excluded_run_ids.unwrap_or_default();
    if excluded.len() > MOST_EXCLUDED {
        return Err(Refusal::TooLarge { limit: MOST_EXCLUDED as u64, unit: "excluded runs" }.into());
    }
    if poll.supported_profiles.is_empty() {
        return Err(Refusal::bad("a runner must support at least one profile").into());
    }
    backend.record_poll(poll.runner_id, Some(&poll.group), &poll.supported_profiles)?;
    let group = Some(poll.group);
    let wanted = Wanted { group, profiles: poll.supported_profiles, excluded };
    let hold = backend.config.poll_hold;
    let (offer, cancelled) = backend.offer_held(&wanted, poll.runner_id, hold)?;
    Ok(reply::json(&with_cancelled(json!({"job": offer}), &cancelled)))
}

fn claim(
    backend: &Backend,
    request: &mut Request<'_>,
    run: &str,
    grant: Grant,
) -> Result<Response> {
    let run: RunId = run.parse()?;
    // No member is needed, but the body must be JSON.
    let _: IgnoredAny = json(request, ORDINARY, Account::Trusted)?;
    let base = match &backend.config.guest_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => request.origin()?,
    };
    // The body may name the runner or the run.
    let session = request.head.header("x-client-session-id");
    let runner = session.and_then(|text| text.parse().ok());
    let runner =
        runner.filter(|runner: &Uuid| !runner.is_nil() && runner.as_bytes() != run.bytes());
    let owner = runner.map(|runner| backend.latest(runner)).transpose()?;
    let request = request.head.header("x-client-request-id").filter(|id| !id.is_empty());
    let request = request.map(str::to_owned);
    let claim = backend.claim(run, Claimant { owner, request, grant: Some(grant) }, &base)?;
    Ok(reply::json(&claim.context))
}

fn heartbeat(backend: &Backend, request: &mut Request<'_>, grant: &Grant) -> Result<Response> {
    let beat: Heartbeat = json(request, ORDINARY, Account::Trusted)?;
    check_group(&beat.group)?;
    grant.check_group(&beat.group)?;
    if !matches!(beat.mode.as_str(), "starting" | "running" | "draining" | "stopping") {
        return Err(Refusal::bad("`mode` is not a mode of a runner").into());
    }
    if beat.snapshot_generation < 1 || beat.snapshot_sequence < 1 {
        return Err(Refusal::bad("generations and sequences must be at least 1").into());
    }
    if beat.held_session_states.len() > MOST_SESSIONS {
        return Err(Refusal::TooLarge { limit: MOST_SESSIONS as u64, unit: "sessions" }.into());
    }
    let version = request.head.header("x-client-version").map(str::to_owned);
    let has_vm = |state: &&HeldSessionState| state.reusable_sandbox.is_some();
    let parked = beat.held_session_states.iter().filter(has_vm).count() as u64;
    let sessions = beat.held_session_states.into_iter().filter_map(held).collect();
    let runner = Runner {
        runner_id: beat.runner_id,
        runner_name: beat.runner_name,
        group: beat.group,
        mode: beat.mode,
        generation: beat.snapshot_generation,
        sequence: beat.snapshot_sequence,
        total_vcpu: beat.total_vcpu,
        total_memory_mb: beat.total_memory_mb,
        max_concurrent: beat.max_concurrent,
        running_count: beat.running_count,
        admittable_profiles: beat.admittable_profiles,
        allocated_vcpu: beat.allocated_vcpu,
        allocated_memory_mb: beat.allocated_memory_mb,
        parked,
        version: version.filter(|version| version.len() <= LONGEST_VERSION),
        ..Runner::default()
    };
    let runner = backend.record_heartbeat(runner, sessions)?;
    let cancelled = backend.cancelled_of(runner.runner)?;
    Ok(reply::json(&with_cancelled(json!({"ok": true}), &cancelled)))
}

fn with_cancelled(mut reply: Value, cancelled: &[RunId]) -> Value {
    if !cancelled.is_empty()
        && let Some(members) = reply.as_object_mut()
    {
        members.insert("cancelledRunIds".to_owned(), json!(cancelled));
    }
    reply
}

/// A session whose VM is parked. One without a VM is no reason to wait for its runner.
fn held(state: HeldSessionState) -> Option<HeldSession> {
    let HeldSessionState { session_id: session, last_completed_at: completed, reusable_sandbox } =
        state;
    let profile = reusable_sandbox?.profile;
    let is_short = session.len() <= LONGEST_SESSION && profile.len() <= LONGEST_SESSION;
    is_short.then_some(HeldSession { session, profile, completed })
}

fn check_group(group: &str) -> Result<(), Refusal> {
    if contract::is_group(group) {
        return Ok(());
    }
    Err(Refusal::bad("`group` is not of the form scope/name"))
}
