//! A VM that nobody sits in front of: it stays until it is stopped, by `runner stop` or a signal.

use crossbeam_channel::select;
use sandbox::Sandbox;

use super::arguments::Run;
use super::describe;
use crate::attend::attend;
use crate::detach;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::journal::{self, Journal};
use crate::options::Global;
use crate::{shortage, vmm};

/// Runs the command if there is one, then waits for the end.
pub(super) fn serve(
    run: &Run,
    sandbox: &dyn Sandbox,
    interrupt: &Interrupt,
    global: &Global,
) -> Result<u8> {
    let id = sandbox.id().to_string();
    let folder = vmm::find(&global.state_dir, &id)?.folder;
    let mut journal = Journal::create(&folder.join(journal::OUTPUT))?;
    detach::announce(run.config.name.as_ref().unwrap_or(&id), &folder)?;
    if let Some(job) = &run.job {
        let ended = attend(sandbox, job, interrupt, &mut |_, data| {
            journal.append(data);
            Ok(())
        });
        match ended {
            Ok(exit) => {
                if let Some(shortage) = shortage::describe(&exit, run.config.memory_mib) {
                    journal.note(&shortage);
                }
                journal.note(&format!("the command ended: {}", describe(&exit.outcome)));
            }
            Err(error) => journal.note(&format!("the command ended: {}", error.chain())),
        }
    }
    interrupt.idle();
    if !interrupt.is_asked_to_end() {
        select! {
            recv(interrupt.told()) -> _ => log::info!("stopped by a signal"),
            recv(sandbox.ended()) -> _ => log::info!("the vm ended"),
        }
    }
    Ok(0)
}
