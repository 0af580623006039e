//! `runner wait`: waits for a background command and returns its exit code.

use crate::background::{self, CommandObserver, CommandState, Ended};
use crate::error::{Error, Result};
use crate::follow::FileWatch;
use crate::options::Global;
use crate::value;
use crate::vmm;

const EXAMPLES: &str = "\
Examples:
  runner wait web                        the command of `runner run -d --name web -- …`
  runner exec -d --name tests web -- make test
  runner wait web --command tests; echo $?

The exit code is the command's; 125 if the VM or the command's runner process ends first.
Child processes that outlive the command are not waited for.";

/// Wait for a background command to end, and return its exit code
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Name of a command of `exec -d` [default: the command of `run -d`]
    #[arg(long, value_name = "NAME", value_parser = value::name)]
    command: Option<String>,

    /// Name or id of the VM; a unique prefix of the id is enough
    vm: String,
}

/// Runs the sub-command; returns the exit code of the command in the VM.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let record = vmm::find(&global.state_dir, &arguments.vm)?;
    let name = arguments.command.as_deref();
    let vm = || arguments.vm.clone();
    let observer = CommandObserver::open(&background::folder(&record, name))?;
    let mut observer = observer.ok_or_else(|| match name {
        Some(name) => Error::NoSuchCommand { vm: vm(), name: name.to_owned() },
        None => Error::NoOwnCommand { vm: vm() },
    })?;
    let ended = end(&mut observer)?.ok_or_else(|| Error::CommandLost { vm: vm() })?;
    Ok(ended.code)
}

/// Waits for the end of the command; none if its runner ended first.
fn end(observer: &mut CommandObserver) -> Result<Option<Ended>> {
    let path = observer.path().to_owned();
    let watch = FileWatch::start(&path)?;
    loop {
        match observer.look()? {
            Some(CommandState { ended: Some(ended), .. }) => return Ok(Some(ended)),
            Some(CommandState { is_attended: true, .. }) => {}
            Some(CommandState { is_attended: false, .. }) | None => return Ok(None),
        }
        watch.sleep_or(observer.alive())?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use sandbox::{Exit, Outcome};

    use super::*;
    use crate::attend::Sink as _;
    use crate::background::Recorder;

    /// Waits for a running command, which `finish` ends.
    fn waited(finish: impl FnOnce(Recorder)) -> Option<u8> {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(folder.path(), "make", 256).unwrap();
        let mut observer = CommandObserver::open(folder.path()).unwrap().unwrap();
        let (begun_tx, begun) = mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(move || {
                begun_tx.send(()).unwrap();
                end(&mut observer).unwrap().map(|ended| ended.code)
            });
            begun.recv().unwrap();
            finish(recorder);
            waiter.join().unwrap()
        })
    }

    #[test]
    fn a_wait_ends_with_the_command_though_its_descendants_run() {
        let exit = Exit {
            outcome: Outcome::Exited(7),
            dropped: 0,
            duration: Duration::ZERO,
            oom_kills: 0,
        };
        let mut kept = None;
        let code = waited(|mut recorder| {
            recorder.ended(&exit);
            kept = Some(recorder);
        });
        assert_eq!(code, Some(7));
    }

    #[test]
    fn a_wait_ends_when_the_runner_of_the_command_is_gone() {
        assert_eq!(waited(drop), None);
    }
}
