//! The durations of a job's stages, for the log and for the platform's telemetry.

use std::time::{Duration, Instant};

use base::date::iso_now;
use contract::Operation;

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
    is_success: bool,
}

impl Stages {
    /// Runs a stage and records its duration.
    pub(crate) fn measure<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        log::debug!("stage begins; stage={name}");
        let started = Instant::now();
        let result = work();
        self.add(name, started.elapsed(), result.is_ok());
        result
    }

    pub(crate) fn add(&mut self, name: &'static str, took: Duration, is_success: bool) {
        self.all.push(Stage { name, ended: iso_now(), took, is_success });
    }

    /// The stages in the platform's format.
    pub(crate) fn operations(&self) -> Vec<Operation<'static>> {
        let operation = |stage: &Stage| Operation {
            ts: stage.ended.clone(),
            action_type: stage.name,
            duration_ms: u64::try_from(stage.took.as_millis()).unwrap_or(u64::MAX),
            success: stage.is_success,
            error: None,
        };
        self.all.iter().map(operation).collect()
    }

    /// The stages as log fields: `claim_ms=1 vm_create_ms=2000 …`.
    pub(crate) fn log_fields(&self) -> String {
        let words = self
            .all
            .iter()
            .map(|stage| format!("{}_ms={:.1}", stage.name, stage.took.as_secs_f64() * 1000.0));
        words.collect::<Vec<_>>().join(" ")
    }
}
