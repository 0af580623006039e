//! TCP endpoints that a job needs though they may be at a private address or at the host's own: those of
//! the platform, of its object store, and of `[api] reachable`.
//!
//! | endpoint | opened |
//! |---|---|
//! | host and port of `[api] url` | always |
//! | each of `[api] reachable` | always |
//! | hosts of the archives in a job's context | if the platform itself is not on the public internet |
//!
//! A platform on the public internet opens no private address: its contexts would otherwise lead guests to
//! whatever the runner's network has. Names are resolved when the job starts, for IPv4, and a VM reaches them
//! at those addresses until it ends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket};

use intercept::Reachable;
use serde_json::Value;

use super::context::Context;
use super::source::Access;

/// A host and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// As a configuration has it: `HOST` at the port of HTTPS, or `HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, 443),
        };
        let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        (!host.is_empty() && host.chars().all(is_good)).then_some(Self { host, port })
    }

    /// Where a URL leads; none if that is no HTTP, or an address of IPv6.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        match authority.contains(':') {
            true => Self::parse(authority),
            false => Some(Self { port, ..Self::parse(authority)? }),
        }
    }

    /// The addresses of IPv4 that its name leads to now; none if it cannot be resolved.
    pub(crate) fn resolve(&self) -> Vec<Ipv4Addr> {
        let found = match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(found) => found,
            Err(error) => {
                log::warn!("cannot resolve what jobs are to reach; endpoint={self} error={error}");
                return Vec::new();
            }
        };
        let addresses = found.filter_map(|socket| match socket {
            SocketAddr::V4(socket) => Some(*socket.ip()),
            SocketAddr::V6(_) => None,
        });
        addresses.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// What a job reaches whatever the policy of its profile, each with its addresses.
pub(super) fn of_job(context: &Context, access: &Access) -> Vec<Reachable> {
    // Guests reach the embedded platform by a port of their gateway.
    let Some(platform) = Endpoint::of_url(&access.guest_url).filter(|_| access.service.is_none())
    else {
        return Vec::new();
    };
    let platform = resolved(platform);
    let is_ours = platform.addresses.iter().any(|address| is_private(*address));
    let configured = access.reachable.iter().cloned().map(resolved);
    let stores = stores(context).into_iter().filter(|_| is_ours).map(resolved);
    // The metadata services of clouds are there, and no platform's store is.
    let stores = stores.map(|store| {
        let addresses = store.addresses.into_iter().filter(|address| !address.is_link_local());
        Reachable { addresses: addresses.collect(), ..store }
    });
    let mut all = vec![platform.clone()];
    all.extend(configured.chain(stores).filter(|one| *one != platform));
    all
}

/// As sockets.
pub(super) fn sockets(reachable: &[Reachable]) -> Vec<SocketAddrV4> {
    let at = |one: &Reachable| {
        let port = one.port;
        one.addresses.clone().into_iter().map(move |address| SocketAddrV4::new(address, port))
    };
    reachable.iter().flat_map(at).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The hosts of the archives that a job begins with.
fn stores(context: &Context) -> BTreeSet<Endpoint> {
    archives(context).into_iter().filter_map(Endpoint::of_url).collect()
}

/// The URLs of the archives that a job begins with.
pub(super) fn archives(context: &Context) -> Vec<&str> {
    let manifest = context.storage_manifest.as_ref().unwrap_or(&Value::Null);
    let lists = ["storageMounts", "storages", "artifacts"];
    let mounts = lists.into_iter().filter_map(|list| manifest[list].as_array()).flatten();
    let all = mounts.chain(["artifact", "memory"].map(|name| &manifest[name]));
    all.filter_map(|one| one["archiveUrl"].as_str()).collect()
}

fn resolved(endpoint: Endpoint) -> Reachable {
    let addresses = endpoint.resolve();
    Reachable { host: endpoint.host, port: endpoint.port, addresses }
}

/// Whether an address is of a private network, or the host's own.
fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    // Only an address of its own is one that the host can send from.
    let is_own = || UdpSocket::bind((address, 0)).is_ok();
    address.is_private() || address.is_loopback() || is_shared || is_own()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service::context::tests::least;

    fn access(url: &str, reachable: &[&str]) -> Access {
        Access {
            guest_url: url.into(),
            url: url.into(),
            service: None,
            bypass: None,
            reachable: reachable.iter().filter_map(|text| Endpoint::parse(text)).collect(),
        }
    }

    fn of(archive: &str, access: &Access) -> Vec<String> {
        let mut value = least();
        value["storageManifest"] = json!({"storages": [{"archiveUrl": archive}]});
        let context: Context = serde_json::from_value(value).unwrap();
        let shown = |socket: SocketAddrV4| socket.to_string();
        sockets(&of_job(&context, access)).into_iter().map(shown).collect()
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let shown = |text| Endpoint::parse(text).map(|it| it.to_string()).unwrap_or_default();
        assert_eq!(shown("Minio.corp.:9000"), "minio.corp:9000");
        assert_eq!(shown("10.1.2.3"), "10.1.2.3:443");
        for bad in ["", ":80", "a:0", "a:x", "a:65536", "::1", "[::1]:80", "a/b", "*.corp:1", "u@h"]
        {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
        let of_url = |url| Endpoint::of_url(url).map(|it| it.to_string()).unwrap_or_default();
        assert_eq!(of_url("http://a.org/x?y:z"), "a.org:80");
        assert_eq!(of_url("https://a.org"), "a.org:443");
        assert_eq!(of_url("http://10.0.0.1:3000/x"), "10.0.0.1:3000");
        assert_eq!(of_url("file:///x") + &of_url("http://[::1]:3000") + &of_url("a.org"), "");
    }

    #[test]
    fn a_private_platform_opens_itself_and_its_store() {
        let all = of("http://10.9.9.9:9000/x", &access("http://10.1.2.3:3000", &["10.4.4.4:5"]));
        assert_eq!(all, ["10.1.2.3:3000", "10.4.4.4:5", "10.9.9.9:9000"]);
        let metadata = of("http://169.254.169.254/x", &access("http://10.1.2.3:3000", &[]));
        assert_eq!(metadata, ["10.1.2.3:3000"]);
    }

    #[test]
    fn a_public_platform_opens_nothing_private_that_is_not_configured() {
        let public = "https://192.0.2.9";
        assert_eq!(of("http://10.9.9.9:9000/x", &access(public, &[])), ["192.0.2.9:443"]);
        let all = of("http://10.9.9.9:9000/x", &access(public, &["10.9.9.9:9000"]));
        assert_eq!(all, ["10.9.9.9:9000", "192.0.2.9:443"]);
    }

    #[test]
    fn the_hosts_own_address_is_private() {
        assert!(is_private(Ipv4Addr::LOCALHOST) && is_private([100, 64, 0, 1].into()));
        assert!(!is_private([192, 0, 2, 9].into()));
    }

    #[test]
    fn an_embedded_platform_is_reached_by_the_gateway_alone() {
        let host = "127.0.0.1:1".parse().unwrap();
        let service = Some(sandbox::Service { port: 8700, host });
        let access = Access { service, ..access("http://192.168.241.1:8700", &[]) };
        assert!(of("http://192.168.241.1:8700/blobs/1", &access).is_empty());
    }
}
