//! Against DNS rebinding: a page of another site, whose name was made to lead here, sends its own name as
//! the host and as the origin.

use std::net::IpAddr;

use http_server::Head;

use super::{Refused, Result};

/// The names under which clients reach the server. Addresses and `localhost` are always among them.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Names in lower case, with or without a port, which does not matter. Those below one of them count, too.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| without_port(&name).to_ascii_lowercase()).collect())
    }

    pub(super) fn check(&self, head: &Head) -> Result<()> {
        let host = head.host().map_err(|refusal| Refused::bad(refusal.to_string()))?;
        if !self.has(host) {
            let text = format!(
                "`{host}` is no name of this server: if it should be, start it with `--mcp-host`, or list it in `mcp_hosts`"
            );
            return Err(Refused::new(421, text));
        }
        let mut origins = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("origin"));
        let is_ours = |(_, origin): (&str, &str)| {
            origin.split_once("://").is_some_and(|(_, host)| self.has(host))
        };
        if origins.all(is_ours) {
            Ok(())
        } else {
            Err(Refused::new(403, "pages of other sites may not use this server (Origin)"))
        }
    }

    fn has(&self, host: &str) -> bool {
        let host = without_port(host).to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if host == "localhost" || address.parse::<IpAddr>().is_ok() {
            return true;
        }
        let is_below = |name: &String| match host.strip_suffix(name.as_str()) {
            Some(rest) => rest.is_empty() || (rest.ends_with('.') && !is_sandbox(rest)),
            None => false,
        };
        self.0.iter().any(is_below)
    }
}

/// Whether a label is that of a port of a sandbox, `8000-ID`: pages from there are as hostile as others.
fn is_sandbox(label: &str) -> bool {
    let port = label.split_once('-').map(|(port, _)| port);
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_its_names_addresses_and_localhost() {
        let hosts = Hosts::new(["Boxes.example:8443".to_owned()]);
        let ours = [
            "localhost:8490",
            "127.0.0.1",
            "[::1]:80",
            "10.0.0.7:1",
            "boxes.example",
            "api.BOXES.example:1",
        ];
        for host in ours {
            assert!(hosts.has(host), "{host}");
        }
        for host in [
            "evil.example",
            "boxes.example.evil.org",
            "8000-abc.boxes.example",
            "notboxes.example",
            "localhost.evil.org",
            "",
            "null",
        ] {
            assert!(!hosts.has(host), "{host}");
        }
    }
}
