//! Sandboxes: create, list, end.

use std::time::{Duration, UNIX_EPOCH};

use sandbox_api::{CreateRequest, Filter, ManagedSandbox, NetworkRequest, State, Status};
use serde_json::{Value, json};

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::{Arguments, needed};
use crate::call::Call;
use crate::failure::{Failure, Result};

pub(super) const CREATE: Tool = Tool {
    name: "create_sandbox",
    title: "Create a sandbox",
    description: |context| {
        let templates = context.sandboxes.templates();
        let templates = templates.iter().map(|one| {
            let (vcpus, memory) = (one.vcpus, one.memory_mib);
            format!("{} ({vcpus} vCPUs, {memory} MiB)", one.name)
        });
        let templates = templates.collect::<Vec<_>>().join(", ");
        format!(
            "Creates a sandbox, an isolated virtual machine, and returns its id when it takes commands. Not needed \
             for the first one: calls without `sandbox_id` create one by themselves. Templates: {templates}."
        )
    },
    input: |context| {
        let most = context.sandboxes.settings().max_timeout.as_secs();
        let timeout = "How many seconds the sandbox stays without being used. Each call on it starts the time anew.";
        let env = json!({
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Environment variables of all its commands.",
        });
        let properties = json!({
            "template": schema::string("What it is made from."),
            "timeout": schema::seconds(timeout, most),
            "env": env,
            "no_internet": schema::flag("Whether it is cut off from the network."),
        });
        (properties, &[])
    },
    output: Some(shape),
    effect: Effect::Adds,
    run: create,
};

pub(super) const LIST: Tool = Tool {
    name: "list_sandboxes",
    title: "List sandboxes",
    description: |_| "Lists the sandboxes that exist, the newest first.".to_owned(),
    input: |_| (json!({}), &[]),
    output: Some(
        || json!({"sandboxes": {"type": "array", "items": {"type": "object", "properties": shape()}}}),
    ),
    effect: Effect::Reads,
    run: list,
};

pub(super) const END: Tool = Tool {
    name: "end_sandbox",
    title: "End a sandbox",
    description: |_| {
        "Ends a sandbox. Its processes and files are lost. Do this when a sandbox is not needed any more.".to_owned()
    },
    input: |_| (json!({"sandbox_id": schema::string("The sandbox, by its id.")}), &["sandbox_id"]),
    output: None,
    effect: Effect::Changes,
    run: end,
};

/// The properties of a sandbox in results.
fn shape() -> Value {
    json!({
        "sandbox_id": {"type": "string"},
        "template": {"type": "string"},
        "state": {"type": "string", "description": "running or paused"},
        "vcpus": {"type": "integer"},
        "memory_mib": {"type": "integer"},
        "disk_mib": {"type": "integer"},
        "started_at": {"type": "integer", "description": "seconds since 1970"},
        "timeout": {"type": "number", "description": "seconds without use after which it ends"},
    })
}

fn create(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let template = arguments.name("template")?;
    let most = call.sandboxes().settings().max_timeout;
    let timeout = arguments.seconds("timeout", most)?;
    let env = arguments.env("env")?;
    let is_cut_off = arguments.flag("no_internet")?;
    arguments.finish()?;
    let template = template.map_or_else(|| call.default_template(), Ok)?;
    let request = CreateRequest {
        timeout,
        env,
        network: NetworkRequest { allow_internet: !is_cut_off, ..NetworkRequest::default() },
        ..CreateRequest::new(template)
    };
    let sandbox = call.create(request)?;
    if call.cancellation.is_cancelled() {
        // No client learns its id.
        let _ = call.sandboxes().kill(&call.session.caller, sandbox.id());
        return Err(Failure::Cancelled);
    }
    Ok(Output::structured(describe(&sandbox, sandbox.status())))
}

fn list(call: &Call<'_>, arguments: Arguments) -> Result<Output> {
    arguments.finish()?;
    let page = call.sandboxes().list(&call.session.caller, &Filter::default());
    let page = page.map_err(|error| call.failure(&error))?;
    let sandboxes: Vec<_> =
        page.sandboxes.iter().map(|(sandbox, status)| describe(sandbox, *status)).collect();
    if page.next.is_some() {
        call.note(format!("the newest {} only: there are more", sandboxes.len()));
    }
    Ok(Output::structured(json!({"sandboxes": sandboxes})))
}

fn end(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let id = needed("sandbox_id", arguments.sandbox()?)?;
    arguments.finish()?;
    let ended = call.sandboxes().kill(&call.session.caller, &id);
    ended.map_err(|error| call.failure(&error))?;
    call.session.implicit.forget(&id);
    Ok(Output::text(format!("sandbox {id} has ended")))
}

fn describe(sandbox: &ManagedSandbox, status: Status) -> Value {
    let template = sandbox.template();
    let since = sandbox.started_at().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let state = match status.state {
        State::Running => "running",
        State::Paused => "paused",
        State::Ended => "ended",
    };
    json!({
        "sandbox_id": sandbox.id(),
        "template": template.name,
        "state": state,
        "vcpus": template.vcpus,
        "memory_mib": template.memory_mib,
        "disk_mib": template.disk_mib,
        "started_at": since.as_secs(),
        "timeout": sandbox.timeout().as_secs_f64(),
    })
}
