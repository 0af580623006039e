//! Checks at start whether the platform is usable, with a call that changes nothing there.

use std::io::ErrorKind;

use platform_client::{ClientType, PlatformClient, PlatformCredentials, RequestCancellation};
use serde_json::{Value, json};

use super::{access, limits, token};
use crate::config::{Api as Config, Config as Whole};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};

/// The limit for an answer, in seconds.
const ANSWER_SECS: u64 = 10;
/// The limit for a refusal of a poll, in seconds. The platform holds an accepted poll.
const REFUSAL_SECS: u64 = 3;
/// A profile that no job names.
const NO_PROFILE: &str = "runner-check";

/// Requests a token for pushes from the platform of `[api]`. The error says whether there is none, it is unreachable,
/// TLS fails, it refuses the runner's token, it has an internal error, or VMs cannot reach it.
pub fn probe(whole: &Whole) -> Result<()> {
    let config = whole.remote()?;
    let access = access(config)?;
    let credentials = PlatformCredentials {
        addresses: access.addresses.clone(),
        token: token(&config.token_file)?,
        bypass: access.bypass,
        client_session: uuid::Uuid::nil().to_string(),
    };
    let url = || config.names();
    let platform = PlatformClient::of(
        ClientType::Runner,
        &credentials,
        limits(ANSWER_SECS),
        &RequestCancellation::new(),
    )?;
    let body = json!({"group": whole.group}).to_string();
    let answer = platform.attempt::<Value>("/api/runners/realtime/token", body.as_bytes());
    match answer {
        Err(error) if error.status() == Some(401) => Err(refused(config, error)),
        // The token is not for this group, or the group has no pushes: only a poll distinguishes the two.
        Err(error) if error.status() == Some(403) => poll(whole, config, &credentials),
        Err(source) if source.status().is_some_and(|status| status >= 500) => {
            Err(Error::PlatformFails { url: url(), source })
        }
        // Without pushes the runner polls for jobs.
        Err(error) if error.status().is_some() => Ok(()),
        Err(platform_client::Error::Answer { .. }) | Ok(_) => Ok(()),
        Err(source) if is_tls(&source) => Err(Error::PlatformTls { url: url(), source }),
        Err(source) => Err(Error::PlatformUnreachable { url: url(), source }),
    }?;
    reachable_from_vms(config)
}

/// An error if the platform refuses a poll. It holds a poll that it accepts.
fn poll(whole: &Whole, config: &Config, credentials: &PlatformCredentials) -> Result<()> {
    let platform = PlatformClient::of(
        ClientType::Runner,
        credentials,
        limits(REFUSAL_SECS),
        &RequestCancellation::new(),
    )?;
    let body = json!({
        "runnerId": credentials.client_session,
        "group": whole.group,
        "supportedProfiles": [NO_PROFILE],
    });
    let answer = platform.attempt::<Value>("/api/runners/poll", body.to_string().as_bytes());
    match answer {
        Err(error) if matches!(error.status(), Some(401 | 403)) => Err(refused(config, error)),
        _ => Ok(()),
    }
}

fn refused(config: &Config, source: platform_client::Error) -> Error {
    let (url, path) = (config.names(), config.token_file.clone());
    Error::PlatformRefuses { url, path, source }
}

fn is_tls(error: &platform_client::Error) -> bool {
    match error {
        platform_client::Error::Transport { source, .. } => source.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// An error if a URL's addresses are all loopback addresses, which a VM cannot reach.
fn reachable_from_vms(config: &Config) -> Result<()> {
    for url in &config.urls {
        let addresses = Endpoint::of_url(url).map(|it| it.resolve()).unwrap_or_default();
        if !addresses.is_empty() && addresses.iter().all(|address| address.is_loopback()) {
            return Err(Error::PlatformOnLoopback { url: url.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use guest_test::{Reply, Server};

    use super::*;

    fn probed(url: &str, folder: &Path) -> String {
        let token_file = folder.join("token");
        std::fs::write(&token_file, "the-token").unwrap();
        let (bypass, push, reachable) = (None, None, Vec::new());
        let (urls, ca) = (vec![url.to_owned()], None);
        let config = Config { urls, ca, token_file, bypass, push, reachable };
        let whole = Whole { api: Some(config), ..Whole::default_for_host().unwrap() };
        probe(&whole).err().map(|error| error.chain()).unwrap_or_default()
    }

    fn answered(handler: impl Fn(&guest_test::Request) -> Reply + Send + Sync + 'static) -> String {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(handler);
        probed(&server.url(), folder.path())
    }

    #[test]
    fn a_refused_token_is_reported_with_its_file() {
        let text = answered(|_| Reply::refusal(401, "bad token"));
        assert!(text.contains("rejected the token") && text.contains("/token"), "{text}");
        assert!(!text.contains("the-token"), "{text}");
        let text = answered(|_| Reply::refusal(403, "not your group"));
        assert!(text.contains("rejected the token") && text.contains("not your group"), "{text}");
    }

    #[test]
    fn a_failing_platform_is_reported_and_one_without_pushes_is_accepted() {
        let text = answered(|_| Reply::refusal(503, "maintenance"));
        assert!(text.contains("failed") && text.contains("503"), "{text}");
        let text = answered(|request| match request.target() {
            "/api/runners/poll" => Reply::json(&json!({"job": null})),
            _ => Reply::refusal(403, "no pushes"),
        });
        // The only error left is that the test's platform is on the loopback device.
        assert!(text.contains("VMs cannot reach"), "{text}");
        assert!(answered(|_| Reply::refusal(404, "no")).contains("VMs cannot reach"));
    }

    #[test]
    fn an_unreachable_platform_and_an_untrusted_certificate_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = probed(&format!("http://{gone}"), folder.path());
        assert!(text.contains("cannot reach the platform"), "{text}");
        let untrusted = guest_test::Authority::new().issue_for(&["localhost"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _server = Server::serve(listener, Some(&untrusted), |_| Reply::json(&json!({})));
        let text = probed(&format!("https://localhost:{port}"), folder.path());
        assert!(text.contains("TLS with the platform"), "{text}");
    }
}
