//! Starting VMs, several at once, and timing them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use rootfs::Store;
use sandbox::{Event, ExecRequest, Network, Outcome, SandboxConfig, SandboxFactory, SandboxId};

use super::report::Report;
use super::{Measure, Start};
use crate::cli::Global;
use crate::error::{Error, Result};
use crate::value::NetworkChoice;
use crate::vmm::Host;
use crate::{image, network};

/// How long a VM may take to start: an emulated one on a loaded host is slow.
const START: Duration = Duration::from_secs(300);

/// What each VM took, stage by stage, in milliseconds.
type Times = Vec<(String, f64)>;

pub(super) fn measure(global: &Global, wanted: &Measure) -> Result<Report> {
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
    let report = Mutex::new(Report::new(factory.kind(), wanted.count, wanted.concurrency));
    let next = AtomicU32::new(0);
    let work = || {
        while next.fetch_add(1, Ordering::Relaxed) < wanted.count {
            let times = one(&*factory, &template);
            report.lock().unwrap_or_else(PoisonError::into_inner).add(times);
        }
    };
    thread::scope(|scope| {
        for number in 0..wanted.concurrency.min(wanted.count) {
            let name = format!("bench-{number}");
            let spawned = Builder::new().name(name).spawn_scoped(scope, work);
            spawned.map_err(|source| Error::BenchThread { source })?;
        }
        Ok::<(), Error>(())
    })?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn config(global: &Global, wanted: &Measure) -> Result<SandboxConfig> {
    let store = Store::open(&global.state_dir)?;
    let image = store.get(&wanted.image)?;
    let network = match &wanted.network {
        NetworkChoice::Open => Some(Network::default()),
        NetworkChoice::Policy(path) => Some(network::read(path)?),
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
        network,
        hostname: "bench".to_owned(),
        timezone: None,
    })
}

/// One VM, from its start to its end.
fn one(factory: &dyn SandboxFactory, template: &SandboxConfig) -> Result<Times> {
    let config = SandboxConfig { id: SandboxId::random()?, ..template.clone() };
    let begun = Instant::now();
    let deadline = begun + START;
    let sandbox = factory.start(&config, deadline)?;
    let started = Instant::now();
    let argv = vec!["true".into()];
    let command = sandbox.exec(&ExecRequest { argv, ..ExecRequest::default() }, deadline)?;
    loop {
        match command.next(Some(deadline))? {
            Event::Output(..) => {}
            Event::Exit(exit) if exit.outcome == Outcome::Exited(0) => break,
            Event::Exit(exit) => {
                let (program, code) = ("true".to_owned(), exit.outcome.exit_code());
                return Err(Error::NotStarted { program, code, message: "in a VM".to_owned() });
            }
        }
    }
    let ended = Instant::now();
    let stages = &sandbox.start_report().stages;
    let mut times: Times =
        stages.iter().map(|(name, time)| ((*name).to_owned(), ms(*time))).collect();
    drop(command);
    sandbox.kill()?;
    times.push(("exec".to_owned(), ms(ended - started)));
    times.push(("stop".to_owned(), ms(ended.elapsed())));
    times.push(("until first exec".to_owned(), ms(ended - begun)));
    Ok(times)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
