//! Which sandbox and which port a request is for.

use http_server::Head;

use crate::envd;
use crate::rest::refused::Refused;

/// The longest id of a sandbox.
const LONGEST_ID: usize = 64;

/// A port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) sandbox: String,
    pub(crate) port: u16,
}

impl Target {
    /// What a request's host or headers name; `None` if they name no sandbox.
    pub(crate) fn of(head: &Head, domain: Option<&str>) -> Result<Option<Self>, Refused> {
        let by_host = match (domain, head.header("host")) {
            (Some(domain), Some(_)) => by_host(head.host()?, domain)?,
            _ => None,
        };
        let by_headers = by_headers(head)?;
        match (by_host, by_headers) {
            (Some(host), Some(headers)) if host != headers => Err(Refused::bad(
                "the Host header and the E2b-Sandbox-… headers name different ports",
            )),
            (host, headers) => Ok(host.or(headers)),
        }
    }
}

/// `<port>-<id>.<domain>`
fn by_host(host: &str, domain: &str) -> Result<Option<Target>, Refused> {
    let (host, domain) = (name(host), name(domain));
    let Some(label) = host.strip_suffix(&domain).and_then(|rest| rest.strip_suffix('.')) else {
        return Ok(None);
    };
    let Some((port, id)) = label.split_once('-') else { return Ok(None) };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    target(id, port).map(Some)
}

/// A host name without its port, in lower case.
fn name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn by_headers(head: &Head) -> Result<Option<Target>, Refused> {
    let id = single(head, "e2b-sandbox-id")?;
    let port = single(head, "e2b-sandbox-port")?;
    match (id, port) {
        (Some(id), Some(port)) => target(id, port).map(Some),
        (Some(id), None) => target(id, &envd::PORT.to_string()).map(Some),
        (None, Some(_)) => Err(Refused::bad("the header E2b-Sandbox-Id is missing")),
        (None, None) => Ok(None),
    }
}

fn single<'a>(head: &'a Head, name: &str) -> Result<Option<&'a str>, Refused> {
    let mut values = head.headers().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err(Refused::bad(format!("there are several headers {name}"))),
        (value, _) => Ok(value.map(|(_, value)| value)),
    }
}

fn target(id: &str, port: &str) -> Result<Target, Refused> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(is_plain) {
        return Err(Refused::bad("the id of a sandbox has lower-case letters and digits only"));
    }
    let number = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|port| port.parse().ok()) {
        Some(port @ 1..) => Ok(Target { sandbox: id.to_owned(), port }),
        _ => Err(Refused::bad("the port of a sandbox is a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_below_the_domain_names_a_port() {
        let found = |host| by_host(host, "Boxes.example:8443").unwrap();
        let target = Some(Target { sandbox: "abc1".into(), port: 3000 });
        assert_eq!(found("3000-abc1.boxes.example"), target);
        assert_eq!(found("3000-ABC1.Boxes.Example.:8443"), target);
        for host in ["boxes.example", "api.boxes.example", "3000-abc1.boxes.example.evil.org"] {
            assert_eq!(found(host), None, "{host}");
        }
        for host in ["3000-abc1boxes.example", "localhost:3000", "[::1]:80", "x-abc1.boxes.example"]
        {
            assert_eq!(found(host), None, "{host}");
        }
    }

    #[test]
    fn a_host_name_that_is_no_port_of_a_sandbox_is_refused() {
        for label in ["0-abc", "65536-abc", "-abc", "80-", "80-a-b", "80-a.b", "99999999999-a"] {
            let host = format!("{label}.boxes.example");
            assert_eq!(by_host(&host, "boxes.example").unwrap_err().status, 400, "{label}");
        }
    }
}
