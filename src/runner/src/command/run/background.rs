//! `runner run -d` in the background: the VM runs until `runner stop` or a signal.

use crossbeam_channel::select;
use sandbox::Sandbox;

use super::arguments::Run;
use crate::attend::{AttendedCommand, attend};
use crate::background::Recorder;
use crate::detach;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::options::Global;
use crate::vmm;

/// Runs the command if there is one, follows its child processes, then waits for the end of the VM.
pub(super) fn serve(
    run: &Run,
    sandbox: &dyn Sandbox,
    interrupt: &Interrupt,
    global: &Global,
) -> Result<u8> {
    let id = sandbox.id().to_string();
    let folder = vmm::find(&global.state_dir, &id)?.folder;
    let program = run.command.as_ref().map(AttendedCommand::program);
    let recorder = program.map(|name| Recorder::create(&folder, &name, run.config.memory_mib));
    let recorder = recorder.transpose()?;
    detach::announce(run.config.name.as_ref().unwrap_or(&id), &folder)?;
    if let (Some(command), Some(mut recorder)) = (&run.command, recorder) {
        let result = attend(sandbox, command, interrupt, &mut recorder);
        recorder.finish(&result);
    }
    interrupt.idle();
    if !interrupt.should_end() {
        select! {
            recv(interrupt.signalled()) -> _ => log::info!("stopped by a signal"),
            recv(sandbox.ended()) -> _ => log::info!("the vm ended"),
        }
    }
    Ok(0)
}
