//! What the host and the programs in the guest both rely on: the account of jobs, paths and addresses.

use std::net::Ipv4Addr;

/// The login name of the account that jobs run as.
pub const USER: &str = "user";
/// Its user ID and group ID.
pub const USER_ID: u32 = 1000;
/// Its home.
pub const HOME: &str = "/home/user";
/// The default working directory of agents.
pub const WORKSPACE: &str = "/home/user/workspace";

/// The program that runs an agent's CLI.
pub const AGENT: &str = "guest-agent";
/// The program that downloads a job's storages.
pub const DOWNLOAD: &str = "guest-download";

/// The folder of the agent's input files, below the home. The agent removes the files.
pub const INBOX: &str = ".vm0/inbox";
/// The folder of all runs' private folders, below the home. Each is named by its run's ID.
pub const RUNS: &str = ".vm0/guest-agent/runs";
/// The file of a run's folder with the [`AgentOutcome`](crate::AgentOutcome).
pub const OUTCOME: &str = "outcome.json";
/// The file of a run's folder with the number of the last event up to which the platform acknowledged all.
pub const ACKNOWLEDGED: &str = "acknowledged";

/// The guest's address. It is the same in every VM, so that a snapshot of one can be restored as another.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 2);
/// The guest's gateway, which is also its DNS server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 1);
/// The prefix length of their network.
pub const PREFIX: u8 = 29;

/// The path of a file in a run's folder.
pub fn run_file(run: crate::RunId, name: &str) -> String {
    format!("{HOME}/{RUNS}/{run}/{name}")
}
