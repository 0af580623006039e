//! A network log without a VM's secrets.

use std::borrow::Cow;
use std::sync::Arc;

use mask::Masker;
use serde_json::Value;

use crate::network_log::{NetworkLogEntry, NetworkLogFile};
use crate::{Error, Result};

/// Masks every text of an entry, also host names: a guest chooses the names that it looks up, and could put
/// secrets into them.
#[derive(Debug)]
pub(crate) struct MaskedLog {
    record: Arc<NetworkLogFile>,
    masker: Masker,
}

impl MaskedLog {
    pub(crate) fn new<'a>(
        record: Arc<NetworkLogFile>,
        secrets: impl Iterator<Item = &'a String>,
    ) -> Result<Self> {
        // Names are compared and logged in lower case.
        let both = secrets.flat_map(|secret| [secret.clone(), secret.to_ascii_lowercase()]);
        let masker = Masker::new(both).map_err(|source| Error::Secrets { source })?;
        Ok(Self { record, masker })
    }

    pub(crate) fn add(&self, entry: &NetworkLogEntry) {
        match self.masked(entry) {
            Ok(masked) => self.record.add(&masked),
            Err(error) => log::error!("cannot mask an entry of a network log; error={error}"),
        }
    }

    fn masked(&self, entry: &NetworkLogEntry) -> serde_json::Result<NetworkLogEntry> {
        let mut value = serde_json::to_value(entry)?;
        self.mask(&mut value);
        let mut masked: NetworkLogEntry = serde_json::from_value(value)?;
        masked.host = self.mask_labels(masked.host);
        // These are words of ours, which could equal a short secret.
        masked.timestamp.clone_from(&entry.timestamp);
        masked.kind.clone_from(&entry.kind);
        masked.action.clone_from(&entry.action);
        Ok(masked)
    }

    fn mask(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.masker.mask(text) {
                    *text = masked;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|one| self.mask(one)),
            Value::Object(members) => members.values_mut().for_each(|one| self.mask(one)),
            _ => {}
        }
    }

    /// Masks a secret that is spread over labels, which have at most 63 bytes.
    fn mask_labels(&self, host: String) -> String {
        match self.masker.mask(&host.replace('.', "")) {
            Cow::Borrowed(_) => host,
            Cow::Owned(_) if host.contains("***") => host,
            Cow::Owned(_) => {
                let mut domain: Vec<_> = host.rsplit('.').take(2).collect();
                domain.push("***");
                domain.reverse();
                domain.join(".")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(entries: &[NetworkLogEntry], secrets: &[&str]) -> Vec<NetworkLogEntry> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.jsonl");
        let record = Arc::new(NetworkLogFile::open(&path).unwrap());
        let secrets: Vec<_> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let masked = MaskedLog::new(record, secrets.iter()).unwrap();
        entries.iter().for_each(|entry| masked.add(entry));
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_secret_inside_a_name_is_masked_whatever_its_case() {
        let name = "x-s3cretvalue.evil.com";
        let entries = [
            NetworkLogEntry::dns_query(name, true),
            NetworkLogEntry::dns_query("example.com", true),
        ];
        let recorded = recorded(&entries, &["S3cretValue"]);
        assert_eq!((recorded[0].host.as_str(), recorded[0].port), ("x-***.evil.com", 53));
        assert_eq!(recorded[1], entries[1]);
    }

    #[test]
    fn a_secret_spread_over_labels_is_masked_with_all_labels_below_the_domain() {
        let secret = "0123456789abcdef".repeat(5);
        let name = format!("{}.{}.evil.com", &secret[..63], &secret[63..]);
        let recorded = recorded(&[NetworkLogEntry::dns_query(&name, false)], &[&secret]);
        assert_eq!(recorded[0].host, "***.evil.com");
    }

    #[test]
    fn every_text_of_an_entry_is_masked() {
        let said = || Some("say hunter2-and-more".to_owned());
        let entry = NetworkLogEntry {
            url: Some("https://a.org/hunter2%2Dand-more".to_owned()),
            error: said(),
            firewall_name: said(),
            request_body: said(),
            response_body: Some(r#"{"a":"hunter2\u002Dand-more"}"#.to_owned()),
            auth_resolved_secrets: vec!["NAME".to_owned()],
            ..NetworkLogEntry::dns_query("a.org", true)
        };
        let recorded = recorded(&[entry], &["hunter2-and-more"]).remove(0);
        assert_eq!(recorded.url.as_deref(), Some("https://a.org/***"));
        assert_eq!(recorded.response_body.as_deref(), Some(r#"{"a":"***"}"#));
        for text in [recorded.error, recorded.firewall_name, recorded.request_body] {
            assert_eq!(text.as_deref(), Some("say ***"));
        }
        assert_eq!(recorded.auth_resolved_secrets, ["NAME"]);
    }
}
