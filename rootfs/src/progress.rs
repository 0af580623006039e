//! What a build tells its caller while it runs.

use std::fmt;
use std::time::{Duration, Instant};

use crate::error::Result;

/// One thing that a build does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Fetch the kernel package and extract kernel and modules.
    Kernel,
    /// Make the empty writable disk.
    Disk,
    /// Fetch a program from the npm registry.
    Package,
    /// Install the distribution's packages.
    Base,
    /// Read the source's files.
    Read,
    /// Compress the root file system.
    Pack,
    /// Write the initramfs and put the image in its place.
    Store,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Kernel => "kernel",
            Step::Disk => "disk",
            Step::Package => "npm package",
            Step::Base => "base system",
            Step::Read => "read source",
            Step::Pack => "root file system",
            Step::Store => "store image",
        })
    }
}

/// An event of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Another build holds the lock; this one waits for it.
    Waiting,
    /// A step began.
    Started {
        /// The step.
        step: Step,
    },
    /// A step came further.
    Advanced {
        /// The step.
        step: Step,
        /// Bytes done since the step began.
        done: u64,
        /// Bytes to do, where that is known.
        total: Option<u64>,
    },
    /// A step ended well.
    Finished {
        /// The step.
        step: Step,
        /// How long it took.
        elapsed: Duration,
        /// The result was found in the cache.
        cached: bool,
    },
}

/// Where the result of a step came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Cache,
    Made,
}

/// The caller's function, and the bookkeeping of steps around it.
pub(crate) struct Reporter<'a> {
    sink: &'a mut dyn FnMut(Progress),
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(sink: &'a mut dyn FnMut(Progress)) -> Reporter<'a> {
        Reporter { sink }
    }

    pub(crate) fn waiting(&mut self) {
        (self.sink)(Progress::Waiting);
    }

    /// Runs one step between its `Started` and its `Finished`.
    pub(crate) fn step<T>(
        &mut self,
        step: Step,
        work: impl FnOnce(&mut Meter<'_>) -> Result<(T, Origin)>,
    ) -> Result<T> {
        let begin = Instant::now();
        (self.sink)(Progress::Started { step });
        let mut meter = Meter { sink: self.sink, step, done: 0, told: 0, total: None };
        let (value, origin) = work(&mut meter)?;
        let elapsed = begin.elapsed();
        let cached = origin == Origin::Cache;
        log::debug!("build step done; step={step} elapsed={elapsed:?} cached={cached}");
        (self.sink)(Progress::Finished { step, elapsed, cached });
        Ok(value)
    }
}

/// Counts the bytes of one step and tells of every further `GRAIN` of them.
pub(crate) struct Meter<'a> {
    sink: &'a mut dyn FnMut(Progress),
    step: Step,
    done: u64,
    told: u64,
    total: Option<u64>,
}

impl Meter<'_> {
    const GRAIN: u64 = 1 << 20;

    pub(crate) fn expect(&mut self, total: u64) {
        self.total = Some(total);
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.done - self.told >= Self::GRAIN {
            self.told = self.done;
            (self.sink)(Progress::Advanced { step: self.step, done: self.done, total: self.total });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_reports_its_start_every_mebibyte_and_its_end() {
        let mut events = Vec::new();
        let mut sink = |event| events.push(event);

        let value = Reporter::new(&mut sink)
            .step(Step::Pack, |meter| {
                meter.expect(2 << 20);
                meter.add(100);
                meter.add(1 << 20);
                Ok((7, Origin::Cache))
            })
            .unwrap();

        assert_eq!(value, 7);
        assert_eq!(events.len(), 3);
        assert_eq!(events[0], Progress::Started { step: Step::Pack });
        let done = (1 << 20) + 100;
        assert_eq!(events[1], Progress::Advanced { step: Step::Pack, done, total: Some(2 << 20) });
        assert!(matches!(events[2], Progress::Finished { cached: true, .. }));
    }
}
