//! `runner serve`: the platform alone, for runners that take jobs over HTTP.

use std::net::SocketAddr;

use platform::{Config, Platform};

use crate::error::Result;
use crate::operator;
use crate::options::Global;
use crate::{output, signal};

const EXAMPLES: &str = "\
Examples:
  runner serve
  runner serve --listen 127.0.0.1:8480 --listen 10.0.0.5:8480 --guest-url http://10.0.0.5:8480
  runner job submit --prompt 'run the tests'          from another terminal

The server speaks plain HTTP: put a TLS proxy in front of an address that other hosts can reach.
SIGTERM and SIGINT stop the server. It stores its jobs, and continues with them at the next start.";

/// Serve the platform in the foreground, without running jobs in this process
///
/// Prints its addresses, and the file with the token for runners.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Address for runners and guests; port 0 selects a free port. Repeatable
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8480")]
    listen: Vec<SocketAddr>,

    /// URL at which guests reach the platform, if it differs from the runners' URL
    #[arg(long, value_name = "URL")]
    guest_url: Option<String>,
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let (listener, signals) = signal::until_end()?;
    let mut config = Config::new(&global.state_dir);
    config.listen = arguments.listen;
    config.guest_url = arguments.guest_url;
    let platform = Platform::start(config).map_err(operator::Error::from)?;
    for address in platform.addresses() {
        output::line(format_args!("serves http://{address}"))?;
    }
    let token = platform.runner_token_file();
    output::line(format_args!("runner token in {}", token.display()))?;
    if let Ok(signal) = signals.recv() {
        log::info!("stopping; signal={signal}");
    }
    // This restores the default action of signals: a second one ends the process at once.
    drop(listener);
    platform.stop().map_err(operator::Error::from)?;
    Ok(0)
}
