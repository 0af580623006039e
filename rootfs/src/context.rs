//! The state that all steps of a build share.

#[cfg(test)]
use std::path::Path;

use crate::arch::Arch;
use crate::cache::Cache;
#[cfg(test)]
use crate::cache::Reuse;
#[cfg(test)]
use crate::error::Result;
#[cfg(test)]
use crate::progress::{Progress, Reporter};
use crate::stage::Stage;

/// The state that all steps of a build share.
pub(crate) struct Context<'a> {
    pub(crate) arch: Arch,
    /// Unix time of the start of the current day. Mirrors are queried once a day.
    pub(crate) day: u64,
    pub(crate) stage: &'a Stage,
    pub(crate) cache: &'a Cache,
}

/// Runs `work` as part of a build; `cached` gets the flag of each finished step.
#[cfg(test)]
pub(crate) fn with_context<T>(
    state_dir: &Path,
    cached: &mut Vec<bool>,
    work: impl FnOnce(&Context<'_>, &mut Reporter<'_>) -> Result<T>,
) -> T {
    let mut sink = |event| {
        if let Progress::Finished { cached: flag, .. } = event {
            cached.push(flag);
        }
    };
    let mut reporter = Reporter::new(&mut sink);
    let stage = Stage::enter(state_dir, &mut reporter).unwrap();
    let cache = Cache::open(state_dir, Reuse::Allowed);
    let context = Context { arch: Arch::X86_64, day: 0, stage: &stage, cache: &cache };
    work(&context, &mut reporter).unwrap()
}
