//! `runner bench`: how long VMs take to start on this host, and whether that has changed.

mod compare;
mod measure;
mod rank;
mod report;

use std::io::Write as _;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::Output;
use crate::value::{self, NetworkChoice};
use crate::vmm::Vmm;

pub(crate) use self::report::Report;

const EXAMPLES: &str = "\
Examples:
  runner bench --count 50 --concurrency 4
  runner bench --start cold --json > before.json
  runner bench compare before.json after.json";

/// Start VMs, run `true` in each, and say how long each stage took
///
/// What VMs start from decides what is measured: with a snapshot of the image (`runner image
/// snapshot`) they go on from it.
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
    /// Say whether two measurements differ by more than chance, stage by stage
    ///
    /// By a rank test (Mann-Whitney), so that a few slow starts of a noisy machine prove nothing.
    Compare {
        /// What `runner bench --json` printed before
        before: PathBuf,
        /// And after
        after: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Measure {
    /// How many VMs to start
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) count: u32,

    /// How many of them at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(super) concurrency: u32,

    /// What the VMs start from
    #[arg(long, default_value = "default")]
    pub(super) image: String,

    /// Processors of each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) vcpus: u32,

    /// Memory of each, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(96..))]
    pub(super) memory: u32,

    /// The network of each; `none` is none
    #[arg(long, value_name = "open|none|policy=FILE", default_value = "open", value_parser = value::os(value::network))]
    pub(super) network: NetworkChoice,

    /// How they start
    #[arg(long, value_enum, default_value_t = Start::Usual)]
    pub(super) start: Start,

    /// What to run the VMs with
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    pub(super) vmm: Vmm,

    /// Print JSON, with every single time, for `runner bench compare`
    #[arg(long)]
    json: bool,
}

/// How a VM starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Start {
    /// From a snapshot if there is one
    Usual,
    /// By a boot
    Cold,
    /// Before they are measured: until they are somebody's
    Warm,
    /// Once: then they are parked, and go on, again and again
    Parked,
}

/// Does it. The exit code is 1 if a VM did not start.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let (text, code) = match &arguments.command {
        Some(Command::Compare { before, after }) => {
            (compare::table(&Report::read(before)?, &Report::read(after)?), 0)
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
