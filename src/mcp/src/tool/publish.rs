//! Making a port of a sandbox reachable.

use serde_json::json;

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::{Arguments, needed};
use crate::call::Call;
use crate::failure::{Failure, Result};

pub(super) const PUBLISH: Tool = Tool {
    name: "publish_port",
    title: "Publish a port",
    description: |_| {
        "Returns a URL at which the user reaches a TCP port of a sandbox, with the headers that requests need. The server \
         in the sandbox may listen on localhost, and may start later. The URL is valid until the sandbox ends."
            .to_owned()
    },
    input: |_| {
        let properties = json!({
            "port": schema::number("The port in the sandbox.", 1, 65535),
            "sandbox_id": schema::sandbox(),
        });
        (properties, &["port"])
    },
    output: Some(|| {
        json!({
            "sandbox_id": {"type": "string"},
            "port": {"type": "integer"},
            "url": {"type": "string"},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            "is_listening": {"type": "boolean", "description": "whether something listens there now"},
        })
    }),
    effect: Effect::Adds,
    run: publish,
};

fn publish(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let port = needed("port", arguments.number("port", 1..=65535)?)?;
    let sandbox = arguments.sandbox()?;
    arguments.finish()?;
    let port = u16::try_from(port).map_err(|_| Failure::new("`port` is no port"))?;
    let entered = call.enter(sandbox.as_deref(), call.timeout())?;
    let is_listening = match entered.running.connect(port, call.deadline()) {
        Ok(_) => true,
        Err(sandbox::Error::NothingListens { .. }) => false,
        Err(error) => return Err(Failure::new(base::error::chain(&error))),
    };
    let published =
        call.context.ports.publish((call.sandboxes(), call.origin), &entered.sandbox, port)?;
    if !is_listening {
        call.note(format!(
            "nothing listens on port {port} yet: start a server with run_command and `background`"
        ));
    }
    Ok(Output::structured(json!({
        "sandbox_id": entered.sandbox.id(),
        "port": port,
        "url": published.url,
        "headers": published.headers,
        "is_listening": is_listening,
    })))
}
