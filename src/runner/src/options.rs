//! The options that every sub-command takes.

use std::path::PathBuf;

use clap::Args;
use netns::Range;

use crate::value;

/// The options of every sub-command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Folder of images, snapshots and running VMs
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        env = "RUNNER_STATE_DIR",
        default_value = "/var/lib/sandbox-runner",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) state_dir: PathBuf,

    /// Address range for VM links; each VM uses a /30
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "CIDR",
        env = "RUNNER_NETWORK_RANGE",
        default_value = "10.200.0.0/16"
    )]
    pub(crate) network_range: Range,

    /// Folder of network locks; all runners of a host must use the same one
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        env = "RUNNER_RUNTIME_DIR",
        default_value = "/run/sandbox-runner",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) runtime_dir: PathBuf,

    /// Firecracker binary [default: `firecracker` in PATH]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE",
        env = "FIRECRACKER",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) firecracker: Option<PathBuf>,

    /// Confine Firecracker with this jailer binary instead of the runner's own sandbox
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE",
        env = "RUNNER_FIRECRACKER_JAILER",
        value_parser = value::os(value::absolute)
    )]
    pub(crate) firecracker_jailer: Option<PathBuf>,

    /// Firecracker's built-in seccomp filter; `off` is needed for glibc builds
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "RUNNER_FIRECRACKER_SECCOMP",
        value_enum,
        default_value_t = Switch::On
    )]
    pub(crate) firecracker_seccomp: Switch,

    /// Print only errors and results
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,

    /// Format of log lines on standard error
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "RUNNER_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text
    )]
    pub(crate) log_format: LogFormat,

    /// This process is the background runner of `run -d` or `exec -d`
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people; with priorities and without times if standard error is the journal
    Text,
    /// One JSON object per line: time, level, thread, target, message
    Json,
}

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}
