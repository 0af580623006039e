//! The page cache of a guest without a user yet: a warm VM, a VM that will be saved.

use std::time::{Duration, Instant};

use sandbox::{Event, ExecRequest, Sandbox};

use crate::{Error, Result};

/// What most first commands read: the loader and the C library, and all that a login shell reads.
const COMMANDS: [&[&str]; 2] = [&["true"], &["bash", "-l", "-c", "true"]];

/// The time limit of a command. A profile of the image may make the shell wait for ever.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs commands, so that the files that they read are in the page cache. An image without them, or with
/// others that do not end, is no error.
pub(crate) fn fill(vm: &dyn Sandbox, deadline: Instant) -> Result<()> {
    run_all(vm, deadline).map_err(|source| Error::WarmUp { source: source.into() })
}

fn run_all(vm: &dyn Sandbox, deadline: Instant) -> sandbox::Result<()> {
    for argv in COMMANDS {
        let argv = argv.iter().map(Into::into).collect();
        let request = ExecRequest { argv, timeout: Some(TIMEOUT), ..ExecRequest::default() };
        let command = vm.exec(&request, deadline)?;
        while let Event::Output(..) | Event::Ended(_) = command.next(Some(deadline))? {}
    }
    Ok(())
}
