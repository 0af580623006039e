//! TCP endpoints that every job may reach, even at private addresses or at the host's own: the platform, its
//! object store, and `[api] reachable`.
//!
//! | endpoint | opened |
//! |---|---|
//! | host and port of each `[api] url` | always |
//! | each of `[api] reachable` | always |
//! | the object store: hosts of the archives in a job's context, and its `objectStoreUrl` | public addresses always, private ones if the platform has a private address |
//!
//! A platform with a public address opens no private address, as its contexts could otherwise direct guests to
//! any service in the runner's network. Names are resolved to IPv4 addresses once, when the job starts.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket};

use intercept::Reachable;
use serde_json::Value;

use super::context::ExecutionContext;
use super::source::PlatformAccess;

/// A host and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Parses `HOST`, with port 443, or `HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, 443),
        };
        let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        (!host.is_empty() && host.chars().all(is_good)).then_some(Self { host, port })
    }

    /// The endpoint of a URL; `None` if its scheme is not HTTP or HTTPS, or its host is an IPv6 address.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        if authority.contains(':') {
            Self::parse(authority)
        } else {
            Some(Self { port, ..Self::parse(authority)? })
        }
    }

    /// Resolves the host's IPv4 addresses; empty if that fails.
    pub(crate) fn resolve(&self) -> Vec<Ipv4Addr> {
        let found = match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(found) => found,
            Err(error) => {
                log::warn!("cannot resolve an endpoint of jobs; endpoint={self} error={error}");
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

/// The endpoints that a job may reach regardless of its profile's policy, with their addresses.
pub(super) fn of_job(context: &ExecutionContext, access: &PlatformAccess) -> Vec<Reachable> {
    // Guests reach the embedded platform at a port of their gateway.
    if access.service.is_some() {
        return Vec::new();
    }
    let own: BTreeSet<_> =
        access.guest_urls.iter().filter_map(|url| Endpoint::of_url(url)).collect();
    let own: Vec<_> = own.into_iter().map(resolved).collect();
    let mut addresses = own.iter().flat_map(|one| &one.addresses);
    let platform_is_private = addresses.any(|address| is_private(*address));
    let configured = access.reachable.iter().cloned().map(resolved);
    // Link-local addresses are those of cloud metadata services, never of an object store.
    let may_open = |address: &Ipv4Addr| {
        !address.is_link_local() && (platform_is_private || !is_private(*address))
    };
    let stores = stores(context).into_iter().map(resolved).map(|store| {
        let addresses = store.addresses.into_iter().filter(may_open).collect();
        Reachable { addresses, ..store }
    });
    let stores = stores.filter(|store| !store.addresses.is_empty());
    let more: Vec<_> = configured.chain(stores).filter(|one| !own.contains(one)).collect();
    own.into_iter().chain(more).collect()
}

/// The socket addresses of all endpoints.
pub(super) fn sockets(reachable: &[Reachable]) -> Vec<SocketAddrV4> {
    let at = |one: &Reachable| {
        let port = one.port;
        one.addresses.clone().into_iter().map(move |address| SocketAddrV4::new(address, port))
    };
    reachable.iter().flat_map(at).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The endpoints of a job's object store.
fn stores(context: &ExecutionContext) -> BTreeSet<Endpoint> {
    store_urls(context).into_iter().filter_map(Endpoint::of_url).collect()
}

/// The URLs of a job's archives, and that of its object store.
pub(super) fn store_urls(context: &ExecutionContext) -> Vec<&str> {
    let manifest = context.storage_manifest.as_ref().unwrap_or(&Value::Null);
    let lists = ["storageMounts", "storages", "artifacts"];
    let mounts = lists.into_iter().filter_map(|list| manifest[list].as_array()).flatten();
    let all = mounts.chain(["artifact", "memory"].map(|name| &manifest[name]));
    let archives = all.filter_map(|one| one["archiveUrl"].as_str());
    archives.chain(context.object_store_url.as_deref()).collect()
}

fn resolved(endpoint: Endpoint) -> Reachable {
    let addresses = endpoint.resolve();
    Reachable { host: endpoint.host, port: endpoint.port, addresses }
}

/// Whether an address belongs to a private network or to the host.
fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    // bind(2) succeeds only for the host's own addresses.
    let is_own = || UdpSocket::bind((address, 0)).is_ok();
    address.is_private() || address.is_loopback() || is_shared || is_own()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::context::tests::minimal_context;

    fn access(url: &str, reachable: &[&str]) -> PlatformAccess {
        let reachable = reachable.iter().filter_map(|text| Endpoint::parse(text)).collect();
        PlatformAccess { reachable, ..PlatformAccess::at(url, url) }
    }

    fn of(archive: &str, access: &PlatformAccess) -> Vec<String> {
        let mut value = minimal_context();
        value["storageManifest"] = json!({"storages": [{"archiveUrl": archive}]});
        let context: ExecutionContext = serde_json::from_value(value).unwrap();
        let shown = |socket: SocketAddrV4| socket.to_string();
        sockets(&of_job(&context, access)).into_iter().map(shown).collect()
    }

    #[test]
    fn an_endpoint_is_a_host_with_an_optional_port() {
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
    fn a_private_platform_opens_itself_and_its_object_store() {
        let all = of("http://10.9.9.9:9000/x", &access("http://10.1.2.3:3000", &["10.4.4.4:5"]));
        assert_eq!(all, ["10.1.2.3:3000", "10.4.4.4:5", "10.9.9.9:9000"]);
        let metadata = of("http://169.254.169.254/x", &access("http://10.1.2.3:3000", &[]));
        assert_eq!(metadata, ["10.1.2.3:3000"]);
    }

    #[test]
    fn all_addresses_of_a_platform_are_opened() {
        let mut access = access("http://10.1.2.3:3000", &[]);
        access.guest_urls.push("https://10.1.2.4".into());
        access.guest_urls.push("http://10.1.2.3:3000".into());

        let all = of("http://192.0.2.9:9000/x", &access);

        assert_eq!(all, ["10.1.2.3:3000", "10.1.2.4:443", "192.0.2.9:9000"]);
    }

    #[test]
    fn a_public_platform_opens_nothing_private_that_is_not_configured() {
        let public = "https://192.0.2.9";
        assert_eq!(of("http://10.9.9.9:9000/x", &access(public, &[])), ["192.0.2.9:443"]);
        let all = of("http://10.9.9.9:9000/x", &access(public, &["10.9.9.9:9000"]));
        assert_eq!(all, ["10.9.9.9:9000", "192.0.2.9:443"]);
    }

    #[test]
    fn an_object_store_is_opened_for_a_job_without_archives() {
        let of = |store: &str, platform: &str| {
            let mut value = minimal_context();
            value["objectStoreUrl"] = store.into();
            let context: ExecutionContext = serde_json::from_value(value).unwrap();
            let reachable = of_job(&context, &access(platform, &[]));
            sockets(&reachable).into_iter().map(|socket| socket.to_string()).collect::<Vec<_>>()
        };
        let private = of("http://10.9.9.9:9000", "http://10.1.2.3:3000");
        assert_eq!(private, ["10.1.2.3:3000", "10.9.9.9:9000"]);
        let public = of("https://203.0.113.7", "https://192.0.2.9");
        assert_eq!(public, ["192.0.2.9:443", "203.0.113.7:443"]);
        assert_eq!(of("http://10.9.9.9:9000", "https://192.0.2.9"), ["192.0.2.9:443"]);
        assert_eq!(of("http://169.254.169.254", "http://10.1.2.3:3000"), ["10.1.2.3:3000"]);
    }

    #[test]
    fn the_hosts_own_addresses_are_private() {
        assert!(is_private(Ipv4Addr::LOCALHOST) && is_private([100, 64, 0, 1].into()));
        assert!(!is_private([192, 0, 2, 9].into()));
    }

    #[test]
    fn an_embedded_platform_is_reached_only_at_the_gateway() {
        let host = "127.0.0.1:1".parse().unwrap();
        let service = Some(sandbox::Service { port: 8700, host });
        let access = PlatformAccess { service, ..access("http://192.168.241.1:8700", &[]) };
        assert!(of("http://192.168.241.1:8700/blobs/1", &access).is_empty());
    }
}
