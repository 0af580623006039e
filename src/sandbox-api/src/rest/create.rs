//! The call that creates a sandbox.

use std::collections::BTreeMap;

use http_server::Response;

use super::context::{Call, seconds};
use super::fields::Fields;
use super::network;
use super::refused::Refused;
use super::shown::Sandbox;
use crate::sandboxes::{CreateRequest, Error, Lifecycle};

/// The most bytes of a sandbox's metadata, and of its environment.
const LARGEST_MAP: usize = 64 * 1024;

/// `POST /v2/sandboxes`
pub(super) fn create(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let body = call.body()?;
    let key = call.request.head.header("idempotency-key");
    let (context, caller) = (call.context, &call.caller);
    context.idempotency.once(&caller.key, key, &body, || {
        let sandbox = context.sandboxes.create(caller, request(&body)?)?;
        let shown = Sandbox::new(&sandbox, context.domain.as_deref());
        serde_json::to_vec(&shown).map_err(|error| Refused::internal(&error))
    })
}

fn request(body: &[u8]) -> Result<CreateRequest, Refused> {
    let mut fields = Fields::of_body(body)?;
    let Some(template) = fields.string("templateID")? else {
        return Err(Refused::bad("`templateID` is missing"));
    };
    let timeout = match fields.integer("timeout")? {
        Some(..=0) => return Err(Error::NoTimeout.into()),
        timeout => timeout.map(seconds),
    };
    let (metadata, env) = (fields.strings("metadata")?, fields.strings("envVars")?);
    check_size("metadata", &metadata)?;
    check_size("envVars", &env)?;
    check_names(&env)?;
    let lifecycle = lifecycle(&mut fields)?;
    let network = network::of_create(&mut fields)?;
    // Each sandbox has a token, also one that was not asked for.
    fields.bool("secure")?;
    // The client starts its gateway itself.
    fields.ignore("mcp");
    fields.refuse("iam")?;
    fields.refuse("volumeMounts")?;
    fields.finish()?;
    Ok(CreateRequest {
        template,
        timeout,
        metadata,
        env,
        lifecycle,
        network: network.network,
        allow_public_traffic: network.allow_public_traffic,
        mask_request_host: network.mask_request_host,
    })
}

fn lifecycle(fields: &mut Fields) -> Result<Lifecycle, Refused> {
    let pauses_on_timeout = fields.bool("autoPause")?.unwrap_or(false);
    if fields.bool("autoPauseMemory")? == Some(false) {
        return Err(Refused::bad(
            "`autoPauseMemory` must be true: this server keeps the memory of paused sandboxes",
        ));
    }
    let resumes_on_request = match fields.object("autoResume", "autoResume.")? {
        Some(mut resume) => {
            let enabled = resume.bool("enabled")?.unwrap_or(false);
            resume.finish()?;
            enabled
        }
        None => false,
    };
    Ok(Lifecycle { pauses_on_timeout, resumes_on_request })
}

fn check_size(what: &str, map: &BTreeMap<String, String>) -> Result<(), Refused> {
    let size: usize = map.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > LARGEST_MAP {
        return Err(Refused::bad(format!(
            "`{what}` has {size} bytes: at most {LARGEST_MAP} may be"
        )));
    }
    Ok(())
}

/// No environment can have other names and values.
fn check_names(env: &BTreeMap<String, String>) -> Result<(), Refused> {
    let is_wrong = |name: &str, value: &str| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    match env.iter().find(|(name, value)| is_wrong(name, value)) {
        Some((name, _)) => Err(Refused::bad(format!(
            "`envVars` has the variable {name:?}: a name is not empty and has no `=`, and neither name nor value has a zero byte"
        ))),
        None => Ok(()),
    }
}
