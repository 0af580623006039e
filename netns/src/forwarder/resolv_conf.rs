//! The host's DNS servers, from its `/etc/resolv.conf`.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The limit of the resolver in libc (MAXNS).
const MAX_SERVERS: usize = 3;
const PORT: u16 = 53;

/// The DNS servers in order of preference. The file is read for each query, since it changes when the
/// host moves to another network.
pub(super) fn dns_servers(file: &Path) -> Vec<SocketAddr> {
    match fs::read_to_string(file) {
        Ok(text) => parse(&text),
        Err(error) => {
            log::warn!("no DNS servers are known; file={} error={error}", file.display());
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
    });
    servers.take(MAX_SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_than_nameserver_are_ignored() {
        let text = "# nameserver 1.1.1.1\nsearch x\nnameserver 127.0.0.53\nnameserver ::1\n\
            nameserver\nnameserver fe80::1%eth0\noptions ndots:1\nnameserver 9.9.9.9 # last\n";
        let found: Vec<_> = parse(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53", "9.9.9.9:53"]);
    }
}
