//! Observes a VM's other traffic than TCP: decides about DNS queries, logs them and dropped packets.

use std::sync::Arc;

use sandbox::{Dropped, EgressObserver};
use serde::Deserialize;

use crate::masked_log::MaskedLog;
use crate::network_log::NetworkLogEntry;

/// Which names may be resolved, as the addon derives it from the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct NamePolicy {
    unknown: bool,
    allow: Vec<String>,
    deny: Vec<String>,
}

/// Logs the traffic that does not pass the proxy.
pub(crate) struct RecordingObserver {
    pub(crate) names: NamePolicy,
    pub(crate) log: Option<Arc<MaskedLog>>,
}

impl NamePolicy {
    pub(crate) fn may_resolve(&self, name: &str) -> bool {
        let has = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        !has(&self.deny) && (self.unknown || has(&self.allow))
    }
}

/// Whether a pattern, `example.com` or `*.example.com`, matches a name in lower case.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(below) => name.len() > below.len() && name.ends_with(below),
        None => name == pattern,
    }
}

impl EgressObserver for RecordingObserver {
    fn may_resolve(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_allowed = self.names.may_resolve(&name);
        if let Some(log) = &self.log {
            log.add(&NetworkLogEntry::dns_query(&name, is_allowed));
        }
        is_allowed
    }

    fn dropped(&self, packet: Dropped) {
        if let Some(log) = &self.log {
            log.add(&NetworkLogEntry::dropped_packet(packet));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(unknown: bool) -> NamePolicy {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        NamePolicy { unknown, allow: list(&["a.org", "*.b.org"]), deny: list(&["x.b.org"]) }
    }

    #[test]
    fn a_name_is_allowed_by_the_list_or_by_the_default() {
        let strict = names(false);
        assert!(strict.may_resolve("a.org") && strict.may_resolve("y.b.org"));
        assert!(
            !strict.may_resolve("b.org")
                && !strict.may_resolve("yb.org")
                && !strict.may_resolve("c.org")
        );
        assert!(!strict.may_resolve("x.b.org"));
        assert!(names(true).may_resolve("c.org") && !names(true).may_resolve("x.b.org"));
    }

    #[test]
    fn case_and_a_final_dot_are_ignored() {
        assert!(RecordingObserver { names: names(false), log: None }.may_resolve("A.ORG."));
    }
}
