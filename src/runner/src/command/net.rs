//! `runner net bench`: measures the network pool.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::Output;
use crate::vmm::{self, Lease, Networks};

/// How long a network may take.
const LEASE_TIMEOUT: Duration = Duration::from_secs(60);

/// Inspect the networks of VMs
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Bench(Bench),
}

/// Measure creation, lease and return of VM networks; prints JSON
///
/// Running VMs are not affected.
#[derive(Debug, clap::Args)]
struct Bench {
    /// Size of the pool of ready networks
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    networks: u32,

    /// Number of leases to measure
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    leases: u32,
}

/// All times in microseconds.
#[derive(Serialize)]
struct NetReport {
    networks: u32,
    leases: u32,
    first_ready_us: f64,
    all_ready_us: f64,
    lease_us: Times,
    ready_again_us: Times,
    removed_us: f64,
}

#[derive(Serialize)]
struct Times {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let Command::Bench(bench) = &arguments.command;
    let report = measure(global, bench)?;
    let json = serde_json::to_string_pretty(&report).map_err(|source| Error::Json { source })?;
    let mut output = Output::open()?;
    writeln!(output.stdout(), "{json}").map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn measure(global: &Global, bench: &Bench) -> Result<NetReport> {
    let size = bench.networks as usize;
    let begun = Instant::now();
    let networks = vmm::networks(global, size)?;
    let first = lease(&networks)?;
    let first_ready_us = us(begun.elapsed());
    let others: Vec<_> = (1..size).map(|_| lease(&networks)).collect::<Result<_>>()?;
    let all_ready_us = us(begun.elapsed());
    drop((first, others));
    let (mut leases, mut returns) = (Vec::new(), Vec::new());
    for _ in 0..bench.leases {
        until_ready(&networks, size);
        let begun = Instant::now();
        let lease = lease(&networks)?;
        leases.push(begun.elapsed());
        let begun = Instant::now();
        drop(lease);
        until_ready(&networks, size);
        returns.push(begun.elapsed());
    }
    let begun = Instant::now();
    drop(networks);
    Ok(NetReport {
        networks: bench.networks,
        leases: bench.leases,
        first_ready_us,
        all_ready_us,
        lease_us: Times::of(leases),
        ready_again_us: Times::of(returns),
        removed_us: us(begun.elapsed()),
    })
}

fn lease(networks: &Networks) -> Result<Lease> {
    networks.lease(Instant::now() + LEASE_TIMEOUT).map_err(vmm::vm_error)
}

/// What is measured is less than waking a thread takes, so this one stays awake.
fn until_ready(networks: &Networks, size: usize) {
    let deadline = Instant::now() + LEASE_TIMEOUT;
    while networks.ready() < size && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        let at = |percent: usize| us(times.get(last * percent / 100).copied().unwrap_or_default());
        Self { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }
}

fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}
