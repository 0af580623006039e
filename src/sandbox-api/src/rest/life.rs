//! The calls on one sandbox: what is known on it, its end, its time-out, pause and resume.

use std::time::Duration;

use http_server::Response;

use super::context::{Call, json, seconds};
use super::network;
use super::refused::Refused;
use super::shown::{Detail, Sandbox};
use crate::launcher::LaunchError;
use crate::sandboxes::{Connected, Error};

/// The time of a connect or a resume that says none.
const CONNECTED: Duration = Duration::from_secs(300);

/// The time that a refresh adds if it says none.
const REFRESHED: Duration = Duration::from_secs(60);

/// `GET /sandboxes/{id}`
pub(super) fn info(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let sandbox = call.context.sandboxes.get(&call.caller, call.id())?;
    let domain = call.context.domain.as_deref();
    json(200, &Detail::new(&sandbox, sandbox.status(), call.scope, domain))
}

/// `DELETE /sandboxes/{id}`
pub(super) fn kill(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    call.context.sandboxes.kill(&call.caller, call.id())?;
    Ok(Response::new(204))
}

/// `POST /v2/sandboxes/{id}/connect`
pub(super) fn connect(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut fields = call.fields()?;
    let timeout = fields.integer("timeout")?;
    fields.finish()?;
    let (status, shown) = connected(call, timeout)?;
    Ok(Response::bytes(status, "application/json", shown))
}

/// `POST /sandboxes/{id}/resume`: a connect whose reply is always 201.
pub(super) fn resume(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut fields = call.fields()?;
    let timeout = fields.integer("timeout")?;
    if fields.bool("autoPause")? == Some(true) {
        return Err(Refused::bad("`autoPause` is set when a sandbox is created"));
    }
    fields.finish()?;
    let (_, shown) = connected(call, timeout)?;
    Ok(Response::bytes(201, "application/json", shown))
}

fn connected(call: &Call<'_, '_>, timeout: Option<i64>) -> Result<(u16, Vec<u8>), Refused> {
    let timeout = timeout.map_or(CONNECTED, seconds);
    let (status, sandbox) =
        match call.context.sandboxes.connect(&call.caller, call.id(), timeout)? {
            Connected::Running(sandbox) => (200, sandbox),
            Connected::Resumed(sandbox) => (201, sandbox),
        };
    let shown = Sandbox::new(&sandbox, call.context.domain.as_deref());
    let shown = serde_json::to_vec(&shown).map_err(|error| Refused::internal(&error))?;
    Ok((status, shown))
}

/// `POST /sandboxes/{id}/timeout`
pub(super) fn timeout(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut fields = call.fields()?;
    let timeout = fields.integer("timeout")?;
    fields.finish()?;
    let Some(timeout) = timeout else { return Err(Refused::bad("`timeout` is missing")) };
    let set = call.context.sandboxes.set_timeout(&call.caller, call.id(), seconds(timeout));
    set.map_err(only_running)?;
    Ok(Response::new(204))
}

/// `POST /sandboxes/{id}/refreshes`
pub(super) fn refresh(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut fields = call.fields()?;
    let duration = fields.integer("duration")?.map_or(REFRESHED, seconds);
    fields.finish()?;
    let set = call.context.sandboxes.extend(&call.caller, call.id(), duration);
    set.map_err(only_running)?;
    Ok(Response::new(204))
}

/// `POST /sandboxes/{id}/pause`
pub(super) fn pause(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut fields = call.fields()?;
    if fields.bool("memory")? == Some(false) {
        return Err(Refused::unsupported(
            "`memory` must be true: this server keeps the memory of paused sandboxes",
        ));
    }
    // A guest that does not answer cannot be paused in any case.
    fields.bool("requireHealthyGuest")?;
    fields.finish()?;
    call.context.sandboxes.pause(&call.caller, call.id())?;
    Ok(Response::new(204))
}

/// `PUT /sandboxes/{id}/network`
pub(super) fn network(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let mut fields = call.fields()?;
    let network = network::of_update(&mut fields)?;
    fields.finish()?;
    let set = call.context.sandboxes.set_network(&call.caller, call.id(), network);
    match set {
        Ok(()) => Ok(Response::new(204)),
        Err(Error::Launch(LaunchError::Unsupported { what })) => {
            Err(Refused::unsupported(format!("this server does not support {what}")))
        }
        Err(error) => Err(only_running(error)),
    }
}

/// Calls on what runs do not find a paused sandbox.
fn only_running(error: Error) -> Refused {
    match error {
        Error::Paused { .. } => Refused::new(404, error.to_string()),
        error => error.into(),
    }
}
