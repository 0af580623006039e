//! How long the stages of a job took: for a line in the log, and for the platform.

use std::time::{Duration, Instant};

use guest_common::{Operation, iso_now};

use crate::error::Result;

/// The stages so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    all: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    name: &'static str,
    ended: String,
    took: Duration,
    is_good: bool,
}

impl Stages {
    /// Does something that is a stage.
    pub(crate) fn measure<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        log::debug!("stage begins; stage={name}");
        let begun = Instant::now();
        let done = work();
        self.add(name, begun.elapsed(), done.is_ok());
        done
    }

    pub(crate) fn add(&mut self, name: &'static str, took: Duration, is_good: bool) {
        self.all.push(Stage { name, ended: iso_now(), took, is_good });
    }

    /// As the platform is told of them.
    pub(crate) fn operations(&self) -> Vec<Operation<'static>> {
        let operation = |stage: &Stage| Operation {
            ts: stage.ended.clone(),
            action_type: stage.name,
            duration_ms: u64::try_from(stage.took.as_millis()).unwrap_or(u64::MAX),
            success: stage.is_good,
            error: None,
        };
        self.all.iter().map(operation).collect()
    }

    /// `claim_ms=1 vm_create_ms=2000 …`
    pub(crate) fn line(&self) -> String {
        let words = self
            .all
            .iter()
            .map(|stage| format!("{}_ms={:.1}", stage.name, stage.took.as_secs_f64() * 1000.0));
        words.collect::<Vec<_>>().join(" ")
    }
}
