//! Runs an agent's CLI in the guest. Environment variables configure the run.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | the CLI succeeded and, unless the run is local, its checkpoint was made |
//! | the CLI's; 128+n for signal n | the CLI failed |
//! | 1 | lost events, no checkpoint, no heartbeat, a tool past its limit, a bad environment |
//! | 128+n | signal n ended the run |

use std::process::ExitCode;

use guest_agent::Config;

fn main() -> ExitCode {
    if let Err(error) = guest_agent::become_user() {
        eprintln!("guest-agent: {}", base::error::chain(&error));
        return ExitCode::FAILURE;
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("guest-agent: {}", base::error::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    match guest_agent::run(config) {
        Ok(outcome) => ExitCode::from(outcome.exit_code),
        Err(error) => {
            eprintln!("guest-agent: {}", base::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
