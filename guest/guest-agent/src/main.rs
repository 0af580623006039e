//! Runs an agent's CLI in the guest, as the environment says.
//!
//! | exit code | when |
//! |---|---|
//! | the CLI's; 128+n for a signal | it ended by itself |
//! | 0 | it succeeded and, unless the run is local, its checkpoint is made |
//! | 1 | events are lost, no checkpoint, no heartbeat, a tool that hung, a bad environment |
//! | 128+n | signal n ended the run |

use std::process::ExitCode;

use guest_agent::Config;

fn main() -> ExitCode {
    if let Err(error) = guest_agent::become_user() {
        eprintln!("guest-agent: {}", guest_common::chain(&error));
        return ExitCode::FAILURE;
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("guest-agent: {}", guest_common::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    match guest_agent::run(config) {
        Ok(outcome) => ExitCode::from(outcome.exit_code),
        Err(error) => {
            eprintln!("guest-agent: {}", guest_common::chain(&error));
            ExitCode::FAILURE
        }
    }
}
