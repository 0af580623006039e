//! Presigned URLs: valid for one method and one path with its parameters, until they expire. The host is
//! not signed, as the platform has several addresses.

use http_server::{Head, Method};

use crate::Refusal;
use crate::key::Keys;

const SIGNATURE: &str = "&signature=";

/// Signs a URL for `path`, which has parameters already or ends in `?`. It expires at an instant of the
/// database's clock, as another host may check it.
pub(crate) fn url(keys: &Keys, base: &str, method: Method, path: &str, expires: i64) -> String {
    let joint = if path.ends_with('?') { "" } else { "&" };
    let target = format!("{path}{joint}expires={expires}");
    let signature = keys.sign(&text(method, &target));
    format!("{base}{target}{SIGNATURE}{signature}")
}

/// Verifies the signature and the expiry of a URL from [`url`].
pub(crate) fn check(keys: &Keys, head: &Head, now: i64) -> Result<(), Refusal> {
    let (target, signature) = head.target.split_once(SIGNATURE).ok_or(Refusal::BadSignature)?;
    if !keys.is_signature(&text(head.method, target), signature) {
        return Err(Refusal::BadSignature);
    }
    let expires: i64 = head
        .parameter("expires")
        .and_then(|text| text.parse().ok())
        .ok_or(Refusal::BadSignature)?;
    if expires <= now { Err(Refusal::UrlExpired) } else { Ok(()) }
}

fn text(method: Method, target: &str) -> String {
    format!("{} {target}", method.name())
}
