//! What a VM sends besides TCP: questions for names, and packets that go nowhere.

use std::sync::Arc;

use sandbox::{Dropped, EgressObserver};
use serde::Deserialize;

use crate::masked::MaskedRecord;
use crate::record::Entry;

/// Which names may be asked for, as the addon has made it of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Names {
    unknown: bool,
    allow: Vec<String>,
    deny: Vec<String>,
}

/// Puts on record what the proxy does not see.
pub(crate) struct Lookout {
    pub(crate) names: Names,
    pub(crate) record: Option<Arc<MaskedRecord>>,
}

impl Names {
    pub(crate) fn may_ask(&self, name: &str) -> bool {
        let has = |patterns: &[String]| patterns.iter().any(|pattern| fits(pattern, name));
        !has(&self.deny) && (self.unknown || has(&self.allow))
    }
}

/// Whether a pattern, `example.com` or `*.example.com`, means a name in lower case.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(below) => name.len() > below.len() && name.ends_with(below),
        None => name == pattern,
    }
}

impl EgressObserver for Lookout {
    fn may_ask(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_allowed = self.names.may_ask(&name);
        if let Some(record) = &self.record {
            record.add(&Entry::name(&name, is_allowed));
        }
        is_allowed
    }

    fn dropped(&self, packet: Dropped) {
        if let Some(record) = &self.record {
            record.add(&Entry::dropped(packet));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(unknown: bool) -> Names {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names { unknown, allow: list(&["a.org", "*.b.org"]), deny: list(&["x.b.org"]) }
    }

    #[test]
    fn names_are_allowed_by_their_list_or_because_nothing_is_known_of_them() {
        let strict = names(false);
        assert!(strict.may_ask("a.org") && strict.may_ask("y.b.org"));
        assert!(!strict.may_ask("b.org") && !strict.may_ask("yb.org") && !strict.may_ask("c.org"));
        assert!(!strict.may_ask("x.b.org"));
        assert!(names(true).may_ask("c.org") && !names(true).may_ask("x.b.org"));
    }

    #[test]
    fn case_and_a_final_dot_do_not_matter() {
        assert!(Lookout { names: names(false), record: None }.may_ask("A.ORG."));
    }
}
