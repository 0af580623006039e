//! `runner run`: runs a command in a fresh VM, or leaves a VM running in the background.
//!
//! ```text
//! 1 arguments        → Run: image, command, files, limits
//! 2 start            of the VM; from here on, a signal kills it
//! 3 copy in
//! 4 command          receives signals; see `interrupt`
//! 5 copy out         also if the command failed, for its logs
//! 6 kill             of the VM, without a shutdown: its disk is removed anyway
//! ```

mod arguments;
mod background;
mod foreground;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::intercept::{InterceptionConfig, NetworkLogFile};
use egress::ProxyPool;
use sandbox::{Cancellation, Sandbox};

pub(crate) use arguments::Arguments;

use self::arguments::Run;
use crate::copy::{Destination, Ownership, copy_in, copy_out, owner};
use crate::detach;
use crate::error::{Error, Result};
use crate::interrupt::{FirstSignal, Interrupt};
use crate::options::Global;
use crate::output;
use crate::progress::Copying;
use crate::signal;
use crate::value::CopyOut;
use crate::vmm::{self, Host};

/// How long a VM may take to start: an emulated one on a loaded host is slow.
const START: Duration = Duration::from_secs(180);

/// Runs the sub-command; returns the exit code of the command in the VM.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    if arguments.detach && !global.detached {
        return detach::start();
    }
    signal::ignore_others()?;
    let mut run = Run::resolve(arguments, global)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if global.detached {
        detach::leave_terminal()?;
    }
    let signals = signal::block()?;
    let host = Host::open(&global.state_dir)?;
    let first = if global.detached { FirstSignal::Cancel } else { FirstSignal::Forward };
    let cancellation = Cancellation::new();
    let interrupt = Interrupt::start(signals, first, vmm::kill_vm(run.config.id, &cancellation))?;
    intercept(&mut run, global)?;
    let mut stages = Stages::new(run.shows_stages);
    let started = start(&run, &host, (&interrupt, &cancellation), global, &mut stages);
    let sandbox = interrupt.or_interrupted(started)?;
    let result = match &run.command {
        Some(command) if !global.detached => {
            foreground::work(&run, command, &*sandbox, &interrupt, &mut stages)
        }
        _ => background::serve(&run, &*sandbox, &interrupt, global),
    };
    let result = interrupt.or_interrupted(result);
    let stopping = Instant::now();
    let stopped = sandbox.kill();
    stages.add("stop", stopping.elapsed());
    // Without a VM, signals get their default action again, which also ends blocked output.
    drop(interrupt);
    stages.show();
    let code = result?;
    stopped?;
    Ok(code)
}

/// Sets up the interception of the VM's network, if it has a policy.
fn intercept(run: &mut Run, global: &Global) -> Result<()> {
    let (Some(policy), Some(network)) = (run.interception.take(), &mut run.config.network) else {
        return Ok(());
    };
    let record = run.record.as_ref().map(|path| NetworkLogFile::open(path)).transpose();
    let record = record.map_err(egress::Error::from)?.map(Arc::new);
    let held = std::mem::take(&mut run.held);
    let bodies = run.keeps_bodies;
    let proxies = ProxyPool::open(&global.state_dir, &global.runtime_dir)?;
    // Python takes a second to start; other work continues meanwhile.
    proxies.warm_up()?;
    network.intercept = Some(proxies.interception(move |proxy| {
        let config =
            InterceptionConfig::new(proxy, policy.requests.clone()).with_secrets(held.clone());
        config.with_log(record.clone()).with_bodies(bodies)
    }));
    Ok(())
}

/// Steps 2 and 3.
fn start(
    run: &Run,
    host: &Host,
    (interrupt, cancellation): (&Interrupt, &Cancellation),
    global: &Global,
    stages: &mut Stages,
) -> Result<Box<dyn Sandbox>> {
    let factory = host.factory(run.vmm, run.config.network.as_ref(), global)?;
    // A signal may have arrived before there was a VM to kill.
    interrupt.check()?;
    let begun = Instant::now();
    let sandbox = factory.start(&run.config, cancellation, begun + START)?;
    interrupt.check()?;
    let report = sandbox.start_report();
    for (stage, time) in &report.stages {
        stages.add(stage, *time);
    }
    let (kernel, ms) = (&report.kernel, begun.elapsed().as_millis());
    log::info!("vm started; vm={} kernel={kernel} ms={ms}", sandbox.id());
    let copying = Instant::now();
    copy_all_in(run, &*sandbox)?;
    if !run.copies_in.is_empty() {
        stages.add("copy in", copying.elapsed());
    }
    Ok(sandbox)
}

fn copy_all_in(run: &Run, sandbox: &dyn Sandbox) -> Result<()> {
    if run.copies_in.is_empty() {
        return Ok(());
    }
    // Files belong to the command's user. If the guest does not know that user, the command itself fails
    // with a clear error.
    let user = run.command.as_ref().and_then(|command| command.request.user.as_ref());
    let owner = user.map(|user| owner::in_vm(user, sandbox)).transpose()?.flatten();
    let ownership = owner.map_or(Ownership::Inherited, Ownership::New);
    let mut bar = Copying::new(run.is_quiet);
    for copy in &run.copies_in {
        let target = Destination { path: &copy.guest, make_parents: true, ownership };
        copy_in(sandbox, &copy.local, &target, &mut |event| bar.note(event))?;
    }
    Ok(())
}

/// Step 5: tries every copy, prints errors, and returns how many failed. An error of `check`, which runs
/// after each copy, ends the step.
fn copy_all_out(
    copies: &[CopyOut],
    sandbox: &dyn Sandbox,
    is_quiet: bool,
    check: &dyn Fn() -> Result<()>,
) -> Result<usize> {
    let mut failed = 0;
    for CopyOut { guest, local } in copies {
        let mut bar = Copying::new(is_quiet);
        let ownership = Ownership::Inherited;
        let copied = copy_out(sandbox, guest, local, ownership, &mut |event| bar.note(event));
        drop(bar);
        check()?;
        if let Err(error) = copied {
            let (from, to, why) = (guest.display(), local.display(), error.chain());
            output::remark(format_args!("runner: cannot copy {from} of the VM to {to}: {why}"));
            failed += 1;
        }
    }
    Ok(failed)
}

/// Each stage of a run and how long it took, for `--stats`.
struct Stages {
    shown: bool,
    all: Vec<(String, Duration)>,
}

impl Stages {
    fn new(shown: bool) -> Self {
        Self { shown, all: Vec::new() }
    }

    fn add(&mut self, stage: &str, time: Duration) {
        log::debug!("stage done; stage={stage:?} us={}", time.as_micros());
        self.all.push((stage.to_owned(), time));
    }

    fn show(&self) {
        if !self.shown {
            return;
        }
        for (stage, time) in &self.all {
            output::remark(format_args!("{stage:12} {:9.1} ms", time.as_secs_f64() * 1000.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use sandbox::SandboxFactory as _;
    use sandbox::fake::Script;
    use sandbox::{Entry, EntryKind, TreeItem};

    use super::*;

    fn file() -> Vec<TreeItem> {
        let (path, kind) = (PathBuf::new(), EntryKind::File { size: 0 });
        vec![TreeItem::Entry(Entry { path, kind, mode: 0o644, owner: None, modified: None })]
    }

    #[test]
    fn a_copy_that_fails_does_not_stop_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let factory = Script::default().tree("/a", file()).tree("/c", file()).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let copy = |name: &str| CopyOut {
            guest: Path::new("/").join(name),
            local: folder.path().join(name),
        };

        let failed = copy_all_out(&["a", "b", "c"].map(copy), &*sandbox, true, &|| Ok(()));

        assert_eq!(failed.unwrap(), 1);
        let there = ["a", "b", "c"].map(|name| folder.path().join(name).exists());
        assert_eq!(there, [true, false, true]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_signal_ends_copying_out() {
        let folder = tempfile::tempdir().unwrap();
        let factory = Script::default().tree("/a", file()).tree("/c", file()).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let copy = |name: &str| CopyOut {
            guest: Path::new("/").join(name),
            local: folder.path().join(name),
        };
        let signal = nix::sys::signal::Signal::SIGINT;

        let stopped = copy_all_out(&["a", "c"].map(copy), &*sandbox, true, &|| {
            Err(Error::Interrupted { signal })
        });

        assert!(matches!(stopped, Err(Error::Interrupted { .. })));
        assert!(!folder.path().join("c").exists());
    }

    #[test]
    fn failed_copies_are_counted_and_the_exit_code_of_the_command_is_kept() {
        let error = |code| Error::NotCopiedOut { failed: 1, total: 3, code };
        let text = "1 of 3 --copy-out failed; the command's exit code is 7";
        assert_eq!(error(7).to_string(), text);
        assert_eq!((error(7).exit_code(), error(0).exit_code()), (Some(7), None));
    }
}
