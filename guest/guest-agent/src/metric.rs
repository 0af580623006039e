//! CPU, memory and disk usage of the VM.

use std::fs;
use std::path::PathBuf;

use base::date::iso_now;
use serde::Serialize;

/// One sample.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Metric {
    ts: String,
    /// Percent of all CPUs since the last sample.
    cpu: f64,
    mem_used: u64,
    mem_total: u64,
    disk_used: u64,
    disk_total: u64,
}

/// Takes samples.
pub(crate) struct Sampler {
    /// A folder on the disk to measure.
    folder: PathBuf,
    busy: u64,
    total: u64,
}

impl Sampler {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let (busy, total) = processor_time(&read("/proc/stat"));
        Self { folder, busy, total }
    }

    pub(crate) fn sample(&mut self) -> Metric {
        let (busy, total) = processor_time(&read("/proc/stat"));
        let cpu = percent(busy.saturating_sub(self.busy), total.saturating_sub(self.total));
        (self.busy, self.total) = (busy, total);
        let (mem_used, mem_total) = memory(&read("/proc/meminfo"));
        let (disk_used, disk_total) = self.disk();
        Metric { ts: iso_now(), cpu, mem_used, mem_total, disk_used, disk_total }
    }

    fn disk(&self) -> (u64, u64) {
        let Ok(disk) = nix::sys::statvfs::statvfs(&self.folder) else { return (0, 0) };
        let bytes = |blocks: u64| blocks * disk.fragment_size();
        (bytes(disk.blocks() - disk.blocks_free()), bytes(disk.blocks()))
    }
}

fn read(path: &str) -> String {
    // A missing file makes its figures zero.
    fs::read_to_string(path).unwrap_or_default()
}

/// Rounded to two decimals.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 10_000.0).round() / 100.0 }
}

/// The busy and the total time of all CPUs, in ticks.
fn processor_time(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    // The last two fields, guest time, are included in user time.
    let ticks = line.split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = ticks.map(|number| number.parse().unwrap_or(0)).collect();
    let total: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// The used and the total memory, in bytes.
fn memory(meminfo: &str) -> (u64, u64) {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    let total = field("MemTotal:");
    (total.saturating_sub(field("MemAvailable:")), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_is_neither_idle_nor_iowait_is_busy() {
        assert_eq!(processor_time("cpu  10 1 5 80 4 0 0 0 7 7\ncpu0 1 1"), (16, 100));
        assert_eq!(processor_time(""), (0, 0));
        assert_eq!(percent(1, 3), 33.33);
    }

    #[test]
    fn memory_that_is_available_is_not_used() {
        let text = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    250 kB\n";
        assert_eq!(memory(text), (750 * 1024, 1000 * 1024));
    }

    #[test]
    fn a_sample_of_this_machine_has_memory_and_disk() {
        let metric = Sampler::new("/".into()).sample();
        assert!(metric.mem_total > 0 && metric.disk_total > 0, "{metric:?}");
    }
}
