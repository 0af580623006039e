//! `runner run`: a command in a fresh VM, or a VM that stays.
//!
//! ```text
//! 1 what was typed   → Run: image, command, files, limits
//! 2 start            the VM; a signal from here on pulls its plug
//! 3 copy in
//! 4 command          signals are passed on to it; see `interrupt`
//! 5 copy out         also when the command failed: logs are wanted then
//! 6 the VM goes      like a pulled plug: its disk goes anyway
//! ```

mod arguments;
mod background;
mod foreground;
mod owner;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::intercept::{Guard, Record};
use sandbox::{Outcome, Sandbox};

pub(crate) use arguments::Arguments;

use self::arguments::Run;
use crate::copy::{Target, copy_in, copy_out};
use crate::detach;
use crate::egress::Gate;
use crate::error::{Error, Result};
use crate::interrupt::{First, Interrupt};
use crate::options::Global;
use crate::output;
use crate::progress::Copying;
use crate::signal;
use crate::vmm::{self, Host};

/// How long a VM may take to start: an emulated one on a loaded host is slow.
const START: Duration = Duration::from_secs(180);

/// Does it; returns the command's exit code.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    if arguments.detach && !global.detached {
        return detach::start();
    }
    signal::ignore_others()?;
    let mut run = Run::understand(arguments, global)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if global.detached {
        detach::leave_terminal()?;
    }
    let signals = signal::block()?;
    let host = Host::open(&global.state_dir)?;
    let first = if global.detached { First::Cancel } else { First::Forward };
    let interrupt = Interrupt::start(signals, first, vmm::plug(run.config.id))?;
    intercept(&mut run, global)?;
    let mut stages = Stages::new(run.shows_stages);
    let started = start(&run, &host, &interrupt, global, &mut stages);
    let sandbox = interrupt.explain(started)?;
    let result = match &run.job {
        Some(job) if !global.detached => {
            foreground::work(&run, job, &*sandbox, &interrupt, &mut stages)
        }
        _ => background::serve(&run, &*sandbox, &interrupt, global),
    };
    let result = interrupt.explain(result);
    let stopping = Instant::now();
    let stopped = sandbox.kill();
    stages.add("stop", stopping.elapsed());
    // There is no VM any more: what is left to print may be ended like that of any program.
    drop(interrupt);
    stages.show();
    let code = result?;
    stopped?;
    Ok(code)
}

/// Has the proxy let pass what the run's network is to reach, if it is intercepted.
fn intercept(run: &mut Run, global: &Global) -> Result<()> {
    let (Some(egress), Some(network)) = (run.egress.take(), &mut run.config.network) else {
        return Ok(());
    };
    let open = |path: &PathBuf| Record::open(path).map(Arc::new).map_err(Error::Intercept);
    let record = run.record.as_ref().map(open).transpose()?;
    let held = std::mem::take(&mut run.held);
    let bodies = run.keeps_bodies;
    let gate = Gate::open(global)?;
    // Python takes a second to start, in which there is other work.
    gate.warm_up()?;
    network.intercept = Some(gate.interception(move |proxy| {
        let guard = Guard::new(proxy, egress.policy.clone()).with_secrets(held.clone());
        guard.with_record(record.clone()).with_bodies(bodies)
    }));
    Ok(())
}

/// Steps 2 and 3.
fn start(
    run: &Run,
    host: &Host,
    interrupt: &Interrupt,
    global: &Global,
    stages: &mut Stages,
) -> Result<Box<dyn Sandbox>> {
    let factory = host.factory(run.vmm, run.config.network.as_ref(), global)?;
    // A plug that was pulled before the VM had one is pulled here.
    interrupt.check()?;
    let begun = Instant::now();
    let sandbox = factory.start(&run.config, begun + START)?;
    interrupt.check()?;
    let report = sandbox.start_report();
    for (stage, time) in &report.stages {
        stages.add(stage, *time);
    }
    let (kernel, ms) = (&report.kernel, begun.elapsed().as_millis());
    log::info!("vm started; vm={} kernel={kernel} ms={ms}", sandbox.id());
    let copying = Instant::now();
    fill(run, &*sandbox)?;
    if !run.copies_in.is_empty() {
        stages.add("copy in", copying.elapsed());
    }
    Ok(sandbox)
}

fn fill(run: &Run, sandbox: &dyn Sandbox) -> Result<()> {
    if run.copies_in.is_empty() {
        return Ok(());
    }
    let owner = owner::of(run.job.as_ref().and_then(|job| job.request.user.as_ref()), sandbox)?;
    let bar = Copying::new(run.is_quiet);
    for copy in &run.copies_in {
        let target = Target { path: &copy.guest, make_parents: true, owner };
        copy_in(sandbox, &copy.local, &target, &mut |bytes| bar.add(bytes))?;
    }
    Ok(())
}

/// Step 5.
fn empty(run: &Run, sandbox: &dyn Sandbox) -> Result<()> {
    let bar = Copying::new(run.is_quiet);
    for copy in &run.copies_out {
        copy_out(sandbox, &copy.guest, &copy.local, &mut |bytes| bar.add(bytes))?;
    }
    Ok(())
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

/// How a command ended, in a word or two.
fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited(code) => format!("exit code {code}"),
        Outcome::Signalled { signal, .. } => format!("signal {signal}"),
        Outcome::TimedOut => "time up".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::FailedToStart { message, .. } => message.clone(),
    }
}
