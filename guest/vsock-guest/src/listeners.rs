//! TCP ports that have listeners, from `/proc/net/tcp` and `tcp6`.
//!
//! The kernel has no event for a new listener, so the tables are polled.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use vsock_proto::{Listening, WatchPorts};

/// How soon a new listener is seen; sooner if a command says something.
const SOON: Duration = Duration::from_millis(100);

/// A command that writes much costs no more than one look in this time.
const AGAIN: Duration = Duration::from_millis(5);

/// How soon the end of a listener is seen, when all ports have one: connections to it fail anyway.
const LATER: Duration = Duration::from_secs(1);

/// The state of a listening socket.
const LISTEN: &str = "0A";

/// All addresses that are listened to.
pub(crate) fn all() -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A kernel without IPv6 has no such file.
        if let Ok(file) = File::open(path) {
            found.extend(read(BufReader::new(file)));
        }
    }
    found
}

/// The listeners of a table. They come first, so a busy guest's connections are not read.
fn read(table: impl BufRead) -> Vec<SocketAddr> {
    let lines = table.lines().skip(1).map_while(Result::ok);
    lines.map_while(|line| parse(&line)).collect()
}

/// The address of a line such as `0: 0100007F:1F90 00000000:0000 0A …`, if that is a listener.
fn parse(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    if words.nth(1)? != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits, each in the machine's order of bytes.
    let words: Option<Vec<[u8; 4]>> = (0..address.len())
        .step_by(8)
        .map(|at| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(address, port))
}

/// Looks at some ports for the host.
#[derive(Debug)]
pub(crate) struct PortWatch {
    ports: BTreeSet<u16>,
    told: Option<Vec<u16>>,
    looked: Option<Instant>,
    next: Instant,
}

impl PortWatch {
    pub(crate) fn new(request: &WatchPorts, now: Instant) -> Self {
        Self { ports: request.ports.iter().copied().collect(), told: None, looked: None, next: now }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A command has output, which may say that it listens now: the host is to know that first.
    pub(crate) fn hasten(&mut self, now: Instant) {
        let waits = self.told.as_ref().is_none_or(|told| told.len() < self.ports.len());
        if waits && self.looked.is_none_or(|looked| now >= looked + AGAIN) {
            self.next = now;
        }
    }

    /// The changes to report, if a look is due and finds any.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Listening> {
        if now < self.next {
            return None;
        }
        let found: BTreeSet<u16> = all().iter().map(SocketAddr::port).collect();
        let ports: Vec<u16> = self.ports.intersection(&found).copied().collect();
        let pause = if ports.len() == self.ports.len() { LATER } else { SOON };
        self.next = now + pause;
        self.looked = Some(now);
        if self.told.as_ref() == Some(&ports) {
            return None;
        }
        self.told = Some(ports.clone());
        Some(Listening { ports })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue\n\
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
        1: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
        2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_told_from_connections() {
        let found = read(TABLE.as_bytes());
        assert_eq!(found, ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:22".parse().unwrap()]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn an_address_of_ipv6_is_four_words() {
        let line = "0: 00000000000000000000000001000000:0050 00000000:0000 0A";
        assert_eq!(parse(line), Some("[::1]:80".parse().unwrap()));
        assert_eq!(parse("0: 0100:0050 0:0 0A"), None);
    }

    #[test]
    fn output_of_a_command_is_a_reason_to_look_for_ports_that_are_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let now = Instant::now();
        let mut watch = PortWatch::new(&WatchPorts { ports: vec![port] }, now);
        watch.look(now);
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        watch.hasten(now + AGAIN / 2);
        assert_eq!(watch.look(now + AGAIN / 2), None);
        watch.hasten(now + AGAIN);
        assert_eq!(watch.look(now + AGAIN), Some(Listening { ports: vec![port] }));
        watch.hasten(now + 3 * AGAIN);
        assert_eq!(watch.next(), now + AGAIN + LATER);
    }

    #[test]
    fn only_changes_of_the_ports_that_are_asked_for_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let now = Instant::now();
        let mut watch = PortWatch::new(&WatchPorts { ports: vec![port] }, now);
        assert_eq!(watch.look(now), Some(Listening { ports: vec![port] }));
        assert_eq!(watch.look(now), None);
        assert_eq!(watch.look(now + LATER), None);
        drop(listener);
        assert_eq!(watch.look(now + 2 * LATER), Some(Listening::default()));
        assert_eq!(watch.next(), now + 2 * LATER + SOON);
    }
}
