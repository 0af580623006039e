//! What a sandbox uses of CPUs, memory and disk, as its guest tells it when it is asked.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use base::sync::Mutex;
use sandbox::{Event, ExecRequest, Outcome, Sandbox, Stream};

/// How long a sample stands for the present.
const FRESH: Duration = Duration::from_secs(5);

/// How long samples are kept.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// The most samples that are kept.
const MOST: usize = 128;

/// How long the guest may take to tell.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that are read from the guest.
const OUTPUT: u64 = 256 * 1024;

/// What a sandbox used at a time. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When.
    pub at: SystemTime,
    /// The part of all its CPUs' time that it used since the sample before, or since its boot: 0 to 100.
    pub cpu_percent: f64,
    /// Memory without caches.
    pub memory_used: u64,
    /// All of its memory.
    pub memory_total: u64,
    /// Memory that caches files.
    pub memory_cache: u64,
    /// What is used of its disk.
    pub disk_used: u64,
    /// The size of its disk.
    pub disk_total: u64,
    cpu: CpuTime,
}

/// Clock ticks of all CPUs since the boot.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuTime {
    busy: u64,
    total: u64,
}

/// The samples of a sandbox.
#[derive(Debug, Default)]
pub struct Samples(Mutex<VecDeque<Sample>>);

/// The guest did not tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum MetricsError {
    #[error("cannot run `{program}` in the sandbox")]
    Exec { program: &'static str, source: sandbox::Error },
    #[error("`{program}` failed in the sandbox")]
    Failed { program: &'static str },
    #[error("the output of `{program}` in the sandbox is not what was expected")]
    Malformed { program: &'static str },
}

impl Samples {
    /// The present sample: asks the guest, unless the last one is of the last 5 s.
    pub fn take(&self, sandbox: &dyn Sandbox, now: SystemTime) -> Result<Sample, MetricsError> {
        let last = self.0.lock().back().copied();
        if let Some(last) = last
            && now < last.at + FRESH
        {
            return Ok(last);
        }
        let sample = sample(sandbox, now, last.map(|last| last.cpu))?;
        let mut samples = self.0.lock();
        samples.retain(|old| now < old.at + KEPT);
        if samples.len() >= MOST {
            samples.pop_front();
        }
        samples.push_back(sample);
        Ok(sample)
    }

    /// The kept samples, the oldest first.
    pub fn all(&self) -> Vec<Sample> {
        self.0.lock().iter().copied().collect()
    }
}

fn sample(
    sandbox: &dyn Sandbox,
    at: SystemTime,
    before: Option<CpuTime>,
) -> Result<Sample, MetricsError> {
    let deadline = Instant::now() + TIMEOUT;
    let proc = run(sandbox, "cat", &["/proc/stat", "/proc/meminfo"], deadline)?;
    let disk = run(sandbox, "stat", &["-f", "-c", "%S %b %f", "/"], deadline)?;
    let malformed = |program| MetricsError::Malformed { program };
    let cpu = cpu_time(&proc).ok_or_else(|| malformed("cat"))?;
    let memory = |name| memory(&proc, name).ok_or_else(|| malformed("cat"));
    let (total, free) = (memory("MemTotal:")?, memory("MemFree:")?);
    let cache = memory("Cached:")?.saturating_add(memory("Buffers:")?);
    let (disk_used, disk_total) = disk_size(&disk).ok_or_else(|| malformed("stat"))?;
    Ok(Sample {
        at,
        cpu_percent: percent(before, cpu),
        memory_used: total.saturating_sub(free).saturating_sub(cache),
        memory_total: total,
        memory_cache: cache,
        disk_used,
        disk_total,
        cpu,
    })
}

/// The output of a program that succeeded.
fn run(
    sandbox: &dyn Sandbox,
    program: &'static str,
    arguments: &[&str],
    deadline: Instant,
) -> Result<String, MetricsError> {
    let argv = std::iter::once(program).chain(arguments.iter().copied());
    let request = ExecRequest {
        argv: argv.map(Into::into).collect(),
        timeout: Some(TIMEOUT),
        output_cap: Some(OUTPUT),
        ..ExecRequest::default()
    };
    let failed = |source| MetricsError::Exec { program, source };
    let execution = sandbox.exec(&request, deadline).map_err(failed)?;
    let mut output = Vec::new();
    loop {
        match execution.next(Some(deadline)).map_err(failed)? {
            Event::Output(Stream::Stdout, bytes) => output.extend_from_slice(&bytes),
            Event::Output(Stream::Stderr, _) | Event::Ended(_) => {}
            Event::Exit(exit) if exit.outcome == Outcome::Exited(0) => break,
            Event::Exit(_) => return Err(MetricsError::Failed { program }),
        }
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// The first line of /proc/stat: `cpu user nice system idle iowait irq softirq steal guest guest_nice`.
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // Time of guests is part of `user` and `nice`.
    let ticks = line.split_ascii_whitespace().take(8).map(|ticks| ticks.parse().ok());
    let ticks: Vec<u64> = ticks.collect::<Option<_>>()?;
    let idle = ticks.get(3)?.saturating_add(*ticks.get(4)?);
    let total = ticks.iter().fold(0u64, |sum, ticks| sum.saturating_add(*ticks));
    Some(CpuTime { busy: total.saturating_sub(idle), total })
}

/// A line of /proc/meminfo, `MemTotal: 4096 kB`, in bytes.
fn memory(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The used and the whole size, from the size of a block, the number of blocks and of free ones.
fn disk_size(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let (size, blocks, free) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((blocks.saturating_sub(free).checked_mul(size)?, blocks.checked_mul(size)?))
}

#[expect(clippy::cast_precision_loss, reason = "the result has two digits")]
fn percent(before: Option<CpuTime>, now: CpuTime) -> f64 {
    let before = before.unwrap_or(CpuTime { busy: 0, total: 0 });
    let busy = now.busy.saturating_sub(before.busy) as f64;
    let total = now.total.saturating_sub(before.total).max(1) as f64;
    (busy / total * 10_000.0).round().min(10_000.0) / 100.0
}

#[cfg(test)]
mod tests {
    use sandbox::fake::{Factory, Script};
    use sandbox::{Cancellation, SandboxFactory as _};

    use super::*;
    use crate::fake::config;

    const PROC: &str = "cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 10 0 20 60 10 0 0 0 0 0\n\
        MemTotal: 1000 kB\nMemFree: 500 kB\nBuffers: 10 kB\nCached: 90 kB\n";

    fn start(factory: &Factory) -> Box<dyn Sandbox> {
        let config = config(&Default::default());
        factory.start(&config, &Cancellation::new(), Instant::now()).unwrap()
    }

    #[test]
    fn a_sample_has_what_the_guest_tells() {
        let script = Script::default().on("cat", &[PROC], 0).on("stat", &["4096 100 75\n"], 0);
        let factory = script.factory();
        let sandbox = start(&factory);
        let (samples, now) = (Samples::default(), SystemTime::UNIX_EPOCH);
        let sample = samples.take(&*sandbox, now).unwrap();
        assert_eq!((sample.memory_used, sample.memory_cache), (400 * 1024, 100 * 1024));
        assert_eq!((sample.disk_used, sample.disk_total), (25 * 4096, 100 * 4096));
        assert!((sample.cpu_percent - 30.0).abs() < 0.01);
        // Another one so soon costs the guest nothing.
        assert_eq!(samples.take(&*sandbox, now).unwrap(), sample);
        assert_eq!(factory.record().execs.len(), 2);
        // Nothing was done since.
        let later = samples.take(&*sandbox, now + FRESH).unwrap();
        assert!(later.cpu_percent < 0.01);
        assert_eq!(samples.all(), [sample, later]);
    }

    #[test]
    fn a_guest_that_tells_nonsense_is_an_error() {
        let take = |script: Script| {
            let factory = script.factory();
            Samples::default().take(&*start(&factory), SystemTime::UNIX_EPOCH).unwrap_err()
        };
        assert!(matches!(take(Script::default()), MetricsError::Failed { program: "cat" }));
        let nonsense = Script::default().on("cat", &["cpu  1 2\n"], 0).on("stat", &["x"], 0);
        assert!(matches!(take(nonsense), MetricsError::Malformed { program: "cat" }));
        let huge =
            Script::default().on("cat", &[PROC], 0).on("stat", &["18446744073709551615 2 1"], 0);
        assert!(matches!(take(huge), MetricsError::Malformed { program: "stat" }));
    }
}
