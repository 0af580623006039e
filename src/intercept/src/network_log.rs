//! The log of a VM's traffic: a file of JSON lines, in the form of the platform's `networkLogs`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sandbox::Dropped;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::file;

/// The limit of a log's size, since a VM can cause any number of entries.
const MAX_BYTES: u64 = 64 << 20;
/// Beyond this size bodies are omitted, to leave room for other entries.
const MAX_BYTES_WITH_BODIES: u64 = MAX_BYTES / 2;

/// The network log of one VM. An entry is written with one call, so several writers may append.
#[derive(Debug)]
pub struct NetworkLogFile {
    file: File,
    length: AtomicU64,
}

/// An entry. Unknown fields are omitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the platform's, and say it")]
pub struct NetworkLogEntry {
    /// ISO 8601, UTC.
    pub timestamp: String,
    /// `http`, `tcp`, `udp`, `icmp`, `dns`; empty and omitted for other protocols.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// `ALLOW` or `DENY`.
    pub action: String,
    pub host: String,
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Until the beginning of the response, or the end of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_permission: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_rule_match: Option<String>,
    /// Names of secrets, not values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auth_resolved_secrets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of the request's body, if bodies are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_body: Option<String>,
    /// `base64` unless it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_body_encoding: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub request_body_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_body_encoding: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub response_body_truncated: bool,
}

impl NetworkLogFile {
    /// Opens a log with mode 0600, to append.
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let file_ = options.open(path).map_err(file("open", path))?;
        let length = file_.metadata().map_err(file("read", path))?.len();
        Ok(Self { file: file_, length: AtomicU64::new(length) })
    }

    /// Appends an entry.
    pub fn add(&self, entry: &NetworkLogEntry) {
        let is_long = self.length.load(Ordering::Relaxed) > MAX_BYTES_WITH_BODIES;
        let line = if is_long && entry.has_bodies() {
            serde_json::to_vec(&entry.without_bodies())
        } else {
            serde_json::to_vec(entry)
        };
        let Ok(mut line) = line else { return };
        line.push(b'\n');
        let added = line.len() as u64;
        let before = self.length.fetch_add(added, Ordering::Relaxed);
        if before + added > MAX_BYTES {
            if before <= MAX_BYTES {
                log::warn!("a network log is full; bytes={MAX_BYTES}");
            }
            return;
        }
        if let Err(error) = (&self.file).write_all(&line) {
            log::error!("cannot write an entry of a network log; error={error}");
        }
    }
}

impl NetworkLogEntry {
    /// A DNS query.
    pub(crate) fn dns_query(name: &str, is_allowed: bool) -> Self {
        let error = (!is_allowed).then(|| "the policy does not allow this name".to_owned());
        Self { host: name.to_owned(), port: 53, error, ..Self::new("dns", is_allowed) }
    }

    /// A dropped packet. The error names a protocol for which the platform has no type.
    pub(crate) fn dropped_packet(packet: Dropped) -> Self {
        let kind = match i32::from(packet.protocol) {
            libc::IPPROTO_TCP => "tcp",
            libc::IPPROTO_UDP => "udp",
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => "icmp",
            _ => "",
        };
        let what = match (kind, packet.address) {
            (_, IpAddr::V6(_)) => "there is no IPv6".to_owned(),
            ("", _) => format!("IP protocol {} does not pass", packet.protocol),
            _ => "only TCP and DNS queries to the gateway pass".to_owned(),
        };
        let (host, port) = (packet.address.to_string(), packet.port);
        Self { host, port, error: Some(format!("dropped: {what}")), ..Self::new(kind, false) }
    }

    fn has_bodies(&self) -> bool {
        self.request_body.is_some() || self.response_body.is_some()
    }

    /// Marks the omitted bodies as truncated.
    fn without_bodies(&self) -> Self {
        let mut entry = self.clone();
        entry.request_body_truncated |= entry.request_body.take().is_some();
        entry.response_body_truncated |= entry.response_body.take().is_some();
        (entry.request_body_encoding, entry.response_body_encoding) = (None, None);
        entry
    }

    fn new(kind: &str, is_allowed: bool) -> Self {
        let action = if is_allowed { "ALLOW" } else { "DENY" };
        Self {
            timestamp: base::date::iso_now(),
            kind: kind.to_owned(),
            action: action.to_owned(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_without_unknown_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.jsonl");
        NetworkLogFile::open(&path).unwrap().add(&NetworkLogEntry::dns_query("example.com", true));
        NetworkLogFile::open(&path).unwrap().add(&NetworkLogEntry::dns_query("evil.com", false));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<NetworkLogEntry> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0].action.as_str(), lines[1].action.as_str()), ("ALLOW", "DENY"));
        assert!(!text.contains("null") && text.contains("\"type\":\"dns\""));
    }

    #[test]
    fn a_dropped_packet_has_its_destination_and_a_type_of_the_platform() {
        let packet = |protocol, address: &str, port| {
            NetworkLogEntry::dropped_packet(Dropped {
                protocol,
                address: address.parse().unwrap(),
                port,
            })
        };
        let fields = |entry: &NetworkLogEntry| (entry.kind.clone(), entry.host.clone(), entry.port);
        let of = |kind: &str, host: &str, port| (kind.to_owned(), host.to_owned(), port);
        assert_eq!(fields(&packet(17, "9.9.9.9", 123)), of("udp", "9.9.9.9", 123));
        assert_eq!(fields(&packet(6, "2001:db8::1", 443)), of("tcp", "2001:db8::1", 443));
        assert_eq!(fields(&packet(58, "2001:db8::1", 0)).0, "icmp");
        let sctp = packet(132, "9.9.9.9", 0);
        assert!(sctp.error.as_deref().unwrap().contains("IP protocol 132"));
        assert!(!serde_json::to_string(&sctp).unwrap().contains("\"type\""));
    }

    #[test]
    fn bodies_are_omitted_from_a_long_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.jsonl");
        let record = NetworkLogFile::open(&path).unwrap();
        let entry = NetworkLogEntry {
            response_body: Some("x".to_owned()),
            ..NetworkLogEntry::dns_query("a.org", true)
        };
        record.add(&entry);
        record.length.store(MAX_BYTES_WITH_BODIES + 1, Ordering::Relaxed);
        record.add(&entry);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<NetworkLogEntry> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], entry);
        assert!(lines[1].response_body.is_none() && lines[1].response_body_truncated);
        assert!(!lines[1].request_body_truncated);
    }
}
