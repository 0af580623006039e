//! What the sandboxes of a key may have together.

use std::collections::HashMap;
use std::sync::Arc;

use base::sync::Mutex;
use serde::{Deserialize, Serialize};

use crate::launcher::Template;

/// Limits on the sandboxes of a key, all together; `None` means no limit. A paused sandbox counts
/// except for its vCPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandboxes: Option<u32>,
    /// vCPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

/// A limit that is reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key's limit of {limit} {what} is reached: end a sandbox first")]
pub struct TooMany {
    /// Of what: `sandboxes`, `vCPUs`, `MiB of memory`.
    pub what: &'static str,
    /// The limit.
    pub limit: u64,
}

/// What the sandboxes of each key have.
#[derive(Debug, Clone, Default)]
pub(super) struct Budgets(Arc<Mutex<HashMap<String, Usage>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    sandboxes: u32,
    vcpus: u32,
    memory_mib: u64,
}

/// A sandbox's part of its key's budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budgets: Budgets,
    key: String,
    limits: Limits,
    vcpus: u32,
    memory_mib: u64,
    is_paused: bool,
}

impl Budgets {
    /// Takes what a sandbox of `template` needs.
    pub(super) fn take(
        &self,
        key: &str,
        limits: Limits,
        template: &Template,
    ) -> Result<Share, TooMany> {
        let (vcpus, memory_mib) = (template.vcpus, u64::from(template.memory_mib));
        let mut usages = self.0.lock();
        let mut usage = usages.get(key).copied().unwrap_or_default();
        usage.sandboxes += 1;
        usage.vcpus = usage.vcpus.saturating_add(vcpus);
        usage.memory_mib = usage.memory_mib.saturating_add(memory_mib);
        usage.check(limits)?;
        usages.insert(key.to_owned(), usage);
        let (budgets, key) = (self.clone(), key.to_owned());
        Ok(Share { budgets, key, limits, vcpus, memory_mib, is_paused: false })
    }
}

impl Usage {
    fn check(self, limits: Limits) -> Result<(), TooMany> {
        let of = |what, count: u64, limit: Option<u64>| match limit {
            Some(limit) if count > limit => Err(TooMany { what, limit }),
            _ => Ok(()),
        };
        of("sandboxes", self.sandboxes.into(), limits.sandboxes.map(u64::from))?;
        of("vCPUs", self.vcpus.into(), limits.vcpus.map(u64::from))?;
        of("MiB of memory", self.memory_mib, limits.memory_mib)
    }
}

impl Share {
    /// Gives the vCPUs back until [`Share::resume`].
    pub(super) fn pause(&mut self) {
        if !std::mem::replace(&mut self.is_paused, true)
            && let Some(usage) = self.budgets.0.lock().get_mut(&self.key)
        {
            usage.vcpus = usage.vcpus.saturating_sub(self.vcpus);
        }
    }

    /// Takes the vCPUs again.
    pub(super) fn resume(&mut self) -> Result<(), TooMany> {
        if self.is_paused
            && let Some(usage) = self.budgets.0.lock().get_mut(&self.key)
        {
            let with = Usage { vcpus: usage.vcpus.saturating_add(self.vcpus), ..*usage };
            with.check(self.limits)?;
            *usage = with;
            self.is_paused = false;
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut usages = self.budgets.0.lock();
        let Some(usage) = usages.get_mut(&self.key) else { return };
        usage.sandboxes = usage.sandboxes.saturating_sub(1);
        usage.memory_mib = usage.memory_mib.saturating_sub(self.memory_mib);
        if !self.is_paused {
            usage.vcpus = usage.vcpus.saturating_sub(self.vcpus);
        }
        if usage.sandboxes == 0 {
            usages.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        Template { vcpus: 2, memory_mib: 512, ..Template::default() }
    }

    #[test]
    fn a_share_is_given_back_when_it_is_dropped() {
        let (budgets, limits) =
            (Budgets::default(), Limits { sandboxes: Some(1), ..Limits::default() });
        let share = budgets.take("a", limits, &template()).unwrap();
        let refused = budgets.take("a", limits, &template()).unwrap_err();
        assert_eq!(refused, TooMany { what: "sandboxes", limit: 1 });
        budgets.take("b", limits, &template()).unwrap();
        drop(share);
        budgets.take("a", limits, &template()).unwrap();
    }

    #[test]
    fn a_paused_sandbox_keeps_its_memory_and_not_its_vcpus() {
        let budgets = Budgets::default();
        let limits = Limits { vcpus: Some(2), memory_mib: Some(1024), ..Limits::default() };
        let mut first = budgets.take("a", limits, &template()).unwrap();
        assert_eq!(budgets.take("a", limits, &template()).unwrap_err().what, "vCPUs");
        first.pause();
        let second = budgets.take("a", limits, &template()).unwrap();
        assert_eq!(first.resume().unwrap_err().what, "vCPUs");
        assert_eq!(
            budgets.take("a", Limits { vcpus: None, ..limits }, &template()).unwrap_err().what,
            "MiB of memory"
        );
        drop(second);
        first.resume().unwrap();
        drop(first);
        assert!(budgets.0.lock().is_empty());
    }
}
