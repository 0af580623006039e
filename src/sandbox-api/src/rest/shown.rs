//! Sandboxes in replies. Members without a value are absent: clients take `null` badly.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::network;
use crate::key::Scope;
use crate::sandboxes::{ManagedSandbox, State, Status};

/// The version of the sandbox protocol that clients choose their calls by.
const ENVD_VERSION: &str = "0.6.13";

/// Which server has the sandbox: there is one.
const CLIENT_ID: &str = "local";

/// A sandbox that takes calls.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sandbox<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: &'static str,
    envd_access_token: &'a str,
    alias: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_access_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
}

impl<'a> Sandbox<'a> {
    pub(super) fn new(sandbox: &'a ManagedSandbox, domain: Option<&'a str>) -> Self {
        Self {
            template_id: &sandbox.template().name,
            sandbox_id: sandbox.id(),
            client_id: CLIENT_ID,
            envd_version: ENVD_VERSION,
            envd_access_token: sandbox.envd_token(),
            alias: alias(sandbox),
            traffic_access_token: sandbox.traffic_token(),
            domain,
        }
    }
}

/// A sandbox in a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: &'static str,
    alias: &'a str,
    started_at: String,
    end_at: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    metadata: &'a BTreeMap<String, String>,
    state: &'static str,
}

impl<'a> Listed<'a> {
    pub(super) fn new(sandbox: &'a ManagedSandbox, status: Status) -> Self {
        let template = sandbox.template();
        Self {
            template_id: &template.name,
            sandbox_id: sandbox.id(),
            client_id: CLIENT_ID,
            envd_version: ENVD_VERSION,
            alias: alias(sandbox),
            started_at: time(sandbox.started_at()),
            end_at: time(status.end_at),
            cpu_count: template.vcpus,
            memory_mb: template.memory_mib,
            disk_size_mb: template.disk_mib,
            metadata: sandbox.metadata(),
            state: match status.state {
                State::Running => "running",
                State::Paused | State::Ended => "paused",
            },
        }
    }
}

/// All that there is to know on a sandbox.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<&'a str>,
    allow_internet_access: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Value>,
    lifecycle: Lifecycle,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: &'static str,
}

impl<'a> Detail<'a> {
    /// A caller that may only read does not see the token.
    pub(super) fn new(
        sandbox: &'a ManagedSandbox,
        status: Status,
        scope: Scope,
        domain: Option<&'a str>,
    ) -> Self {
        let lifecycle = sandbox.lifecycle();
        let on_timeout = if lifecycle.pauses_on_timeout { "pause" } else { "kill" };
        Self {
            listed: Listed::new(sandbox, status),
            envd_access_token: (scope == Scope::All).then(|| sandbox.envd_token()),
            allow_internet_access: sandbox.network().allow_internet,
            network: network::shown(sandbox),
            lifecycle: Lifecycle { auto_resume: lifecycle.resumes_on_request, on_timeout },
            pause_mode: (status.state == State::Paused).then_some("full"),
            domain,
        }
    }
}

fn alias(sandbox: &ManagedSandbox) -> &str {
    let template = sandbox.template();
    template.aliases.first().unwrap_or(&template.name)
}

/// A time as RFC 3339 has it, in UTC and exact to a microsecond.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}
