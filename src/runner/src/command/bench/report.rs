//! The report of a measurement: as a table, and as JSON that can be read back.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::table;

/// The largest number of failure reasons that are kept.
const REASONS: usize = 5;

/// A measurement.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BenchReport {
    /// The kind of VMs.
    pub(super) vmm: String,
    /// How many were to be started.
    pub(super) count: u32,
    pub(super) concurrency: u32,
    pub(super) succeeded: u32,
    /// Why the first few of the others did not start.
    pub(super) failures: Vec<String>,
    /// In the order in which they come.
    pub(super) stages: Vec<Stage>,
}

/// How long a stage took, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stage {
    pub(super) name: String,
    #[serde(default)]
    pub(super) p50: f64,
    #[serde(default)]
    pub(super) p95: f64,
    #[serde(default)]
    pub(super) p99: f64,
    #[serde(default)]
    pub(super) max: f64,
    /// Of each VM, sorted once all are there.
    pub(super) times: Vec<f64>,
}

impl BenchReport {
    pub(super) fn new(vmm: &str, count: u32, concurrency: u32) -> Self {
        let vmm = vmm.to_owned();
        Self { vmm, count, concurrency, succeeded: 0, failures: Vec::new(), stages: Vec::new() }
    }

    pub(super) fn add(&mut self, vm: Result<Vec<(String, f64)>>) {
        match vm {
            Ok(times) => {
                self.succeeded += 1;
                for (name, time) in times {
                    self.stage(name).add(time);
                }
            }
            Err(error) if self.failures.len() < REASONS => self.failures.push(error.chain()),
            Err(_) => {}
        }
    }

    fn stage(&mut self, name: String) -> &mut Stage {
        let at = self.stages.iter().position(|stage| stage.name == name);
        let at = at.unwrap_or_else(|| {
            let times = Vec::new();
            self.stages.push(Stage { name, p50: 0.0, p95: 0.0, p99: 0.0, max: 0.0, times });
            self.stages.len() - 1
        });
        &mut self.stages[at]
    }

    pub(super) fn json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self);
        Ok(json.map_err(|source| Error::Json { source })? + "\n")
    }

    pub(super) fn table(&self) -> String {
        let heads = ["STAGE", "P50", "P95", "P99", "MAX"].map(str::to_owned).to_vec();
        let cells = |stage: &Stage| {
            let times = [stage.p50, stage.p95, stage.p99, stage.max];
            let times = times.into_iter().map(|time| format!("{time:.1} ms"));
            std::iter::once(stage.name.clone()).chain(times).collect()
        };
        let rows: Vec<_> = std::iter::once(heads).chain(self.stages.iter().map(cells)).collect();
        let (succeeded, count, at_once) = (self.succeeded, self.count, self.concurrency);
        let mut text = table::render(&rows);
        text += &format!("{succeeded} of {count} VMs ({}) started, {at_once} at once\n", self.vmm);
        for reason in &self.failures {
            text += &format!("one did not: {reason}\n");
        }
        text
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let failed = |source| Error::Report { path: path.to_owned(), source };
        let json = fs::read(path).map_err(|error| failed(serde_json::Error::io(error)))?;
        serde_json::from_slice(&json).map_err(failed)
    }
}

impl Stage {
    fn add(&mut self, time: f64) {
        let at = self.times.partition_point(|other| *other < time);
        self.times.insert(at, time);
        [self.p50, self.p95, self.p99, self.max] =
            [50, 95, 99, 100].map(|percent| self.at(percent));
    }

    /// The least time that so many percent of the VMs did not exceed.
    fn at(&self, percent: usize) -> f64 {
        let rank = (self.times.len() * percent).div_ceil(100);
        self.times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(times: impl IntoIterator<Item = u32>) -> BenchReport {
        let mut report = BenchReport::new("qemu", 4, 1);
        for time in times {
            report.add(Ok(vec![("boot".into(), f64::from(time))]));
        }
        report
    }

    #[test]
    fn percentiles_are_measured_values() {
        let stage = &report((1..=100).rev()).stages[0];
        assert_eq!([stage.p50, stage.p95, stage.p99, stage.max], [50.0, 95.0, 99.0, 100.0]);
        let few = &report([3, 1]).stages[0];
        assert_eq!([few.p50, few.p95, few.max], [1.0, 3.0, 3.0]);
    }

    #[test]
    fn failed_starts_are_counted_and_listed() {
        let mut report = report([1, 2]);
        report.add(Err(Error::NotRoot));
        assert_eq!(report.succeeded, 2);
        let table = report.table();
        assert!(table.contains("2 of 4 VMs (qemu) started, 1 at once\none did not: "), "{table}");
    }

    #[test]
    fn a_report_survives_a_round_trip_through_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, report([5, 4]).json().unwrap()).unwrap();
        assert_eq!(BenchReport::read(&path).unwrap().stages[0].times, [4.0, 5.0]);
        fs::write(&path, "{}").unwrap();
        assert!(BenchReport::read(&path).unwrap_err().to_string().contains("a.json"));
    }
}
