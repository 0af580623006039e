//! Starts VMs, several at once, and measures each stage.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base::sync::Mutex;
use egress::NetworkChoice;
use rootfs::Store;
use sandbox::{
    Cancellation, DiskLimits, Event, ExecRequest, Network, Outcome, Sandbox, SandboxConfig,
    SandboxFactory, SandboxId,
};

use super::report::BenchReport;
use super::{Measure, Start};
use crate::error::{Error, Result};
use crate::image;
use crate::options::Global;
use crate::vmm::Host;

/// How long a VM may take to start: an emulated one on a loaded host is slow.
const START: Duration = Duration::from_secs(300);

/// The stages of one VM and their durations in milliseconds.
type Times = Vec<(String, f64)>;

pub(super) fn measure(global: &Global, wanted: &Measure) -> Result<BenchReport> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let template = config(global, wanted)?;
    let host = Host::open(&global.state_dir)?;
    let factory = host.bench_factory(
        wanted.vmm,
        template.network.as_ref().map(|_| wanted.concurrency as usize),
        wanted.start == Start::Cold,
        global,
    )?;
    let report = Mutex::new(BenchReport::new(factory.kind(), wanted.count, wanted.concurrency));
    let next = AtomicU32::new(0);
    let is_more = || next.fetch_add(1, Ordering::Relaxed) < wanted.count;
    let add = |times| report.lock().add(times);
    let factory = &*factory;
    let work = || match wanted.start {
        Start::Usual | Start::Cold => while_true(is_more, || add(one(factory, &template))),
        Start::Warm => while_true(is_more, || add(one_warm(factory, &template))),
        Start::Parked => park_and_resume(factory, &template, is_more, add),
    };
    thread::scope(|scope| {
        for number in 0..wanted.concurrency.min(wanted.count) {
            let spawned = base::thread::spawn_scoped(scope, format!("bench-{number}"), work);
            spawned.map_err(|source| Error::Thread { name: "bench", source })?;
        }
        Ok::<(), Error>(())
    })?;
    Ok(report.into_inner())
}

fn while_true(is_more: impl Fn() -> bool, mut work: impl FnMut()) {
    while is_more() {
        work();
    }
}

/// Parks and resumes the same VM repeatedly; starts another one after a failure.
fn park_and_resume(
    factory: &dyn SandboxFactory,
    template: &SandboxConfig,
    is_more: impl Fn() -> bool,
    add: impl Fn(Result<Times>),
) {
    let start = || -> Result<Box<dyn Sandbox>> {
        let config = SandboxConfig { id: SandboxId::random()?, ..template.clone() };
        Ok(factory.start(&config, &Cancellation::new(), Instant::now() + START)?)
    };
    let mut vm = None;
    while is_more() {
        let times = match vm.take().map_or_else(start, Ok) {
            Ok(started) => round(&*started, template).inspect(|_| vm = Some(started)),
            Err(error) => Err(error),
        };
        add(times);
    }
}

fn config(global: &Global, wanted: &Measure) -> Result<SandboxConfig> {
    let store = Store::open(&global.state_dir)?;
    let image = store.get(&wanted.image)?;
    let network = match &wanted.network {
        NetworkChoice::Open => Some(Network::default()),
        NetworkChoice::Policy(path) => Some(egress::network::read(path)?),
        NetworkChoice::None => None,
        NetworkChoice::Intercept(_) => return Err(Error::BenchIntercepted),
    };
    Ok(SandboxConfig {
        id: SandboxId::random()?,
        name: None,
        labels: BTreeMap::new(),
        image: image::files(&store, &image, None)?,
        vcpus: wanted.vcpus,
        memory_mib: wanted.memory,
        disk_limits: DiskLimits::default(),
        network,
        hostname: "bench".to_owned(),
        timezone: None,
        host_authorities: Vec::new(),
    })
}

/// Times one VM, from its start to its end.
fn one(factory: &dyn SandboxFactory, template: &SandboxConfig) -> Result<Times> {
    let config = SandboxConfig { id: SandboxId::random()?, ..template.clone() };
    let begun = Instant::now();
    let sandbox = factory.start(&config, &Cancellation::new(), begun + START)?;
    let stages = &sandbox.start_report().stages;
    let mut times: Times =
        stages.iter().map(|(name, time)| ((*name).to_owned(), ms(*time))).collect();
    finish(sandbox, begun, &mut times)?;
    Ok(times)
}

/// Times one warm VM, from its assignment to its end.
fn one_warm(factory: &dyn SandboxFactory, template: &SandboxConfig) -> Result<Times> {
    let config = SandboxConfig { id: SandboxId::random()?, ..template.clone() };
    let sandbox = factory.prepare(&config, &Cancellation::new(), Instant::now() + START)?;
    let begun = Instant::now();
    sandbox.assign(&config, begun + START)?;
    let mut times = vec![("assign".to_owned(), ms(begun.elapsed()))];
    finish(sandbox, begun, &mut times)?;
    Ok(times)
}

/// Runs the first command, and ends the VM.
fn finish(sandbox: Box<dyn Sandbox>, begun: Instant, times: &mut Times) -> Result<()> {
    let started = Instant::now();
    execute(&*sandbox, started + START)?;
    let ended = Instant::now();
    sandbox.kill()?;
    times.push(("exec".to_owned(), ms(ended - started)));
    times.push(("stop".to_owned(), ms(ended.elapsed())));
    times.push(("until first exec".to_owned(), ms(ended - begun)));
    Ok(())
}

/// Times one round of parking and resuming a VM.
fn round(sandbox: &dyn Sandbox, template: &SandboxConfig) -> Result<Times> {
    let begun = Instant::now();
    let deadline = begun + START;
    sandbox.park(deadline)?;
    let parked = Instant::now();
    sandbox.assign(template, deadline)?;
    let assigned = Instant::now();
    execute(sandbox, deadline)?;
    let times = [
        ("park", parked - begun),
        ("assign", assigned - parked),
        ("exec", assigned.elapsed()),
        ("until first exec", parked.elapsed()),
    ];
    Ok(times.into_iter().map(|(name, time)| (name.to_owned(), ms(time))).collect())
}

fn execute(sandbox: &dyn Sandbox, deadline: Instant) -> Result<()> {
    let argv = vec!["true".into()];
    let command = sandbox.exec(&ExecRequest { argv, ..ExecRequest::default() }, deadline)?;
    loop {
        match command.next(Some(deadline))? {
            Event::Output(..) | Event::Ended(_) => {}
            Event::Exit(exit) if exit.outcome == Outcome::Exited(0) => return Ok(()),
            Event::Exit(exit) => {
                let (program, code) = ("true".to_owned(), exit.outcome.exit_code());
                return Err(Error::NotStarted { program, code, message: "in a VM".to_owned() });
            }
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
