//! `runner bench`: measures how long VMs take to start, and compares measurements.

mod compare;
mod measure;
mod rank;
mod report;

use std::io::Write as _;
use std::path::PathBuf;

use egress::NetworkChoice;

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::Output;
use crate::value;
use crate::vmm::Vmm;

pub(crate) use self::report::BenchReport;

const EXAMPLES: &str = "\
Examples:
  runner bench --count 50 --concurrency 4
  runner bench --start cold --json > before.json
  runner bench compare before.json after.json";

/// Measure VM starts: start VMs, run `true` in each, and print the time of each stage
///
/// If the image has a snapshot (`runner image snapshot`), VMs are restored from it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    measure: Measure,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Test, stage by stage, whether two measurements differ significantly
    ///
    /// Uses the Mann-Whitney rank test, which outliers of a noisy machine barely affect.
    Compare {
        /// Output of `runner bench --json`
        before: PathBuf,
        /// Output of a later `runner bench --json`
        after: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Measure {
    /// Number of VMs to start
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) count: u32,

    /// Number of VMs that start at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(super) concurrency: u32,

    /// Image of the VMs
    #[arg(long, default_value = "default")]
    pub(super) image: String,

    /// Virtual CPUs of each VM
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) vcpus: u32,

    /// Memory of each VM, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(96..))]
    pub(super) memory: u32,

    /// Network of each VM
    #[arg(long, value_name = "open|none|policy=FILE", default_value = "open", value_parser = value::os(NetworkChoice::parse))]
    pub(super) network: NetworkChoice,

    /// What to measure
    #[arg(long, value_enum, default_value_t = Start::Usual)]
    pub(super) start: Start,

    /// Virtual machine monitor
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    pub(super) vmm: Vmm,

    /// Print JSON with every measured time, for `runner bench compare`
    #[arg(long)]
    json: bool,
}

/// The kind of start that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Start {
    /// Restore from a snapshot if there is one, else boot
    Usual,
    /// Always boot
    Cold,
    /// Assignment of a VM that was prepared beforehand
    Warm,
    /// Parking and resuming of the same VM
    Parked,
}

/// Runs the sub-command; the exit code is 1 if a VM did not start.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let (text, code) = match &arguments.command {
        Some(Command::Compare { before, after }) => {
            (compare::table(&BenchReport::read(before)?, &BenchReport::read(after)?), 0)
        }
        None => {
            let report = measure::measure(global, &arguments.measure)?;
            let text = if arguments.measure.json { report.json()? } else { report.table() };
            (text, u8::from(report.succeeded < report.count))
        }
    };
    let mut output = Output::open()?;
    output.stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(code)
}
