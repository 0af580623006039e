//! The network of a sandbox in requests and replies.

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::refused::Refused;
use crate::launcher::{Destination, NetworkRequest};
use crate::sandboxes::ManagedSandbox;

/// The most destinations in a list.
const MOST: usize = 1000;

/// What a request says on a network.
pub(super) struct NetworkFields {
    pub(super) network: NetworkRequest,
    pub(super) allow_public_traffic: bool,
    pub(super) mask_request_host: Option<String>,
}

/// The network of a request to create a sandbox.
pub(super) fn of_create(body: &mut Fields) -> Result<NetworkFields, Refused> {
    let allow_internet = body.bool("allow_internet_access")?.unwrap_or(true);
    let Some(mut fields) = body.object("network", "network.")? else {
        let network = NetworkRequest { allow_internet, ..NetworkRequest::default() };
        return Ok(NetworkFields { network, allow_public_traffic: true, mask_request_host: None });
    };
    let network = destinations(&mut fields, allow_internet)?;
    let allow_public_traffic = fields.bool("allowPublicTraffic")?.unwrap_or(true);
    let mask_request_host = fields.string("maskRequestHost")?;
    if mask_request_host.as_deref().is_some_and(|host| !is_header_value(host)) {
        return Err(Refused::bad("`network.maskRequestHost` is not the value of a Host header"));
    }
    fields.refuse("httpsPorts")?;
    fields.finish()?;
    Ok(NetworkFields { network, allow_public_traffic, mask_request_host })
}

/// The network of a request to replace it.
pub(super) fn of_update(body: &mut Fields) -> Result<NetworkRequest, Refused> {
    let allow_internet = body.bool("allow_internet_access")?.unwrap_or(true);
    destinations(body, allow_internet)
}

fn destinations(fields: &mut Fields, allow_internet: bool) -> Result<NetworkRequest, Refused> {
    let (allow, deny) = (fields.list("allowOut")?, fields.list("denyOut")?);
    if allow.len().max(deny.len()) > MOST {
        return Err(Refused::bad(format!("a network has at most {MOST} destinations in a list")));
    }
    let deny_out = deny.iter().map(|text| {
        net(text).ok_or_else(|| {
            Refused::bad(format!("`denyOut` has `{text}`, which is no IPv4 address or network"))
        })
    });
    let deny_out: Vec<_> = deny_out.collect::<Result<_, _>>()?;
    let allow_out = allow.iter().map(|text| {
        destination(text).ok_or_else(|| {
            Refused::bad(format!(
                "`allowOut` has `{text}`, which is no IPv4 address, network or host name"
            ))
        })
    });
    let allow_out: Vec<_> = allow_out.collect::<Result<_, _>>()?;
    let has_hosts = allow_out.iter().any(|to| matches!(to, Destination::Host(_)));
    let denies_all = !allow_internet || deny_out.contains(&Ipv4Net::default());
    if has_hosts && !denies_all {
        return Err(Refused::bad(
            "host names in `allowOut` have an effect only if `denyOut` has `0.0.0.0/0`",
        ));
    }
    for name in ["dnsServers", "egressProxy", "rules"] {
        fields.refuse(name)?;
    }
    Ok(NetworkRequest { allow_internet, allow_out, deny_out })
}

/// The network in replies; `None` if it is the usual one. Members without a value are absent.
pub(super) fn shown(sandbox: &ManagedSandbox) -> Option<Value> {
    let network = sandbox.network();
    let mut shown = Map::new();
    if !network.allow_out.is_empty() {
        let texts = network.allow_out.iter().map(|to| match to {
            Destination::Net(net) => text(net),
            Destination::Host(name) => name.clone(),
        });
        shown.insert("allowOut".to_owned(), texts.collect());
    }
    if !network.deny_out.is_empty() {
        shown.insert("denyOut".to_owned(), network.deny_out.iter().map(text).collect());
    }
    if sandbox.traffic_token().is_some() {
        shown.insert("allowPublicTraffic".to_owned(), json!(false));
    }
    if let Some(host) = sandbox.mask_request_host() {
        shown.insert("maskRequestHost".to_owned(), json!(host));
    }
    (!shown.is_empty()).then_some(Value::Object(shown))
}

fn text(net: &Ipv4Net) -> String {
    match net.prefix_len() {
        32 => net.addr().to_string(),
        _ => net.to_string(),
    }
}

fn net(text: &str) -> Option<Ipv4Net> {
    let net = text.parse().ok();
    net.or_else(|| text.parse().ok().map(|address| Ipv4Net::new_assert(address, 32)))
        .map(|net: Ipv4Net| net.trunc())
}

fn destination(text: &str) -> Option<Destination> {
    net(text).map(Destination::Net).or_else(|| host(text).map(Destination::Host))
}

/// A host name, or `*.` and a host name. Its last label has a letter, so an address is none.
fn host(text: &str) -> Option<String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    let top = name.rsplit('.').next().unwrap_or_default();
    let is_name = name.len() <= 253
        && name.split('.').all(is_label)
        && top.bytes().any(|c| c.is_ascii_alphabetic());
    is_name.then(|| text.to_ascii_lowercase())
}

fn is_header_value(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(body: &str) -> Result<NetworkFields, Refused> {
        let mut fields = Fields::of_body(body.as_bytes())?;
        let network = of_create(&mut fields)?;
        fields.finish().map(|()| network)
    }

    fn message(body: &str) -> String {
        create(body).err().unwrap().message.into_owned()
    }

    #[test]
    fn destinations_are_addresses_networks_and_host_names() {
        let network = create(
            r#"{"network":{"allowOut":["1.1.1.1","10.1.2.3/8","*.Example.com"],"denyOut":["0.0.0.0/0"]}}"#,
        );
        let network = network.unwrap().network;
        let net = |text: &str| Destination::Net(text.parse().unwrap());
        let host = Destination::Host("*.example.com".to_owned());
        assert_eq!(network.allow_out, [net("1.1.1.1/32"), net("10.0.0.0/8"), host]);
        assert_eq!(network.deny_out, [Ipv4Net::default()]);
        assert!(network.allow_internet);
    }

    #[test]
    fn a_destination_that_is_none_is_refused_by_its_text() {
        assert!(message(r#"{"network":{"denyOut":["example.com"]}}"#).contains("`example.com`"));
        assert!(message(r#"{"network":{"allowOut":["300.1.1.1"]}}"#).contains("`300.1.1.1`"));
        assert!(message(r#"{"network":{"allowOut":["a b"]}}"#).contains("`a b`"));
    }

    #[test]
    fn allowed_host_names_need_that_all_else_is_denied() {
        assert!(message(r#"{"network":{"allowOut":["example.com"]}}"#).contains("0.0.0.0/0"));
        create(r#"{"network":{"allowOut":["example.com"]},"allow_internet_access":false}"#)
            .unwrap();
    }

    #[test]
    fn wishes_that_this_server_does_not_fulfil_are_refused_by_name() {
        let proxy = r#"{"network":{"egressProxy":{"address":"a:1"}}}"#;
        assert_eq!(message(proxy), "`network.egressProxy` is not supported by this server");
        let rules = r#"{"network":{"rules":{"a.com":[]}}}"#;
        assert_eq!(message(rules), "`network.rules` is not supported by this server");
        assert_eq!(
            message(r#"{"network":{"new":1}}"#),
            "`network.new` is not supported by this server"
        );
        create(r#"{"network":{"rules":{},"httpsPorts":[],"dnsServers":null}}"#).unwrap();
    }
}
