//! What a client gets where no program answers: a page in a browser, else JSON.

use http_server::{Head, Response};
use serde_json::json;

use crate::envd;

/// Nothing listens on the port.
pub(super) fn nothing_listens(head: &Head, id: &str, port: u16) -> Response {
    if is_browser(head) {
        let text = format!(
            "Sandbox <b>{id}</b> is running, but nothing listens on port <b>{port}</b>. \
             Start a server on this port, then load the page again."
        );
        return page(&format!("Port {port} is closed"), &text);
    }
    let message = "The sandbox is running but port is not open";
    let body = json!({"sandboxId": id, "message": message, "port": port, "code": 502});
    Response::bytes(502, "application/json", body.to_string().into_bytes())
}

/// There is no such sandbox, or it does not run.
pub(super) fn gone(head: &Head, id: &str) -> Response {
    if is_browser(head) {
        let text = format!("There is no sandbox <b>{id}</b>, or it is paused.");
        return page("Sandbox not found", &text);
    }
    envd::gone(id)
}

fn is_browser(head: &Head) -> bool {
    head.header("accept").is_some_and(|accepted| accepted.contains("text/html"))
}

/// The text is HTML: ids have letters and digits only.
fn page(title: &str, text: &str) -> Response {
    let body = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>\
         <h1>{title}</h1><p>{text}</p></html>\n"
    );
    Response::bytes(502, "text/html; charset=utf-8", body.into_bytes())
        .with("Cache-Control", "no-store")
}
