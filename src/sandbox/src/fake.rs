//! A scripted sandbox, for tests of code that uses sandboxes.
//!
//! ```
//! use sandbox::fake::Script;
//! let factory = Script::default().on("make", &["building\n"], 2).factory();
//! ```

mod execution;
mod script;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use self::execution::{Ending, FakeExecution};
use self::script::Act;
pub use self::script::{Files, Manner, Script};
use self::tree::{FakeReader, FakeWriter};
use crate::{
    Cancellation, DiskLimits, Entry, EntryKind, Event, ExecRequest, Execution, Exit, Image,
    Network, Outcome, Result, Sandbox, SandboxConfig, SandboxFactory, SandboxId, StartReport,
    TreeItem, TreeReader, TreeWriter, WriteRequest,
};

/// The recorded calls of fake sandboxes, and their files.
#[derive(Debug, Default)]
pub struct Record {
    /// Every command, in order.
    pub execs: Vec<ExecRequest>,
    /// Bytes written to the commands' standard inputs.
    pub stdin: Vec<u8>,
    /// Signals sent to commands.
    pub signals: Vec<u8>,
    /// Write requests, in order.
    pub writes: Vec<WriteRequest>,
    /// The files, folders and links that were written, in order.
    pub entries: Vec<Entry>,
    /// The sandboxes' ends of connections to their ports, in order.
    pub connections: Vec<(u16, UnixStream)>,
    /// Files by path.
    pub files: Files,
    /// Sandboxes that were started.
    pub started: usize,
    /// Sandboxes that were prepared.
    pub prepared: usize,
    /// Sandboxes that were assigned, in order, with their names.
    pub assigned: Vec<(SandboxId, Option<String>)>,
    /// Sandboxes that were parked, in order.
    pub parked: Vec<SandboxId>,
    /// Networks that were set, in order.
    pub networks: Vec<Network>,
    /// Sandboxes that ended, by `stop` or by being dropped.
    pub ended: usize,
}

/// Starts fake sandboxes.
#[derive(Debug, Default)]
pub struct Factory {
    script: Script,
    record: Arc<Mutex<Record>>,
    running: Arc<Mutex<Running>>,
    ends: Arc<Mutex<Ends>>,
}

/// A configuration for fake sandboxes, which ignore it.
pub fn config() -> SandboxConfig {
    let none = PathBuf::new;
    let image = Image { kernel: none(), initramfs: none(), rootfs: none(), disk_template: none() };
    SandboxConfig {
        id: SandboxId::random().unwrap_or_default(),
        name: None,
        labels: BTreeMap::new(),
        image,
        vcpus: 1,
        memory_mib: 256,
        disk_limits: DiskLimits::default(),
        network: None,
        hostname: "vm".into(),
        timezone: None,
        host_authorities: Vec::new(),
    }
}

/// The senders that signal each sandbox's end when they are dropped.
type Ends = HashMap<SandboxId, Sender<()>>;

/// The commands that were started, by sandbox.
type Running = HashMap<SandboxId, Vec<Weak<Ending>>>;

impl Factory {
    fn new(script: Script) -> Self {
        Self { script, ..Self::default() }
    }

    /// The record so far.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    /// Lets a sandbox end by itself.
    pub fn end(&self, id: SandboxId) {
        lock(&self.ends).remove(&id);
    }

    /// Makes all held commands of a sandbox write to their standard output.
    pub fn print(&self, id: SandboxId, text: &[u8]) {
        let commands = lock(&self.running).get(&id).cloned().unwrap_or_default();
        for command in commands.iter().filter_map(Weak::upgrade) {
            command.print(text);
        }
    }

    /// How many commands of a sandbox have a holder.
    pub fn commands(&self, id: SandboxId) -> usize {
        let commands = lock(&self.running).get(&id).cloned().unwrap_or_default();
        commands.iter().filter(|command| command.strong_count() > 0).count()
    }

    /// Kills a sandbox from outside: its commands are cancelled.
    pub fn unplug(&self, id: SandboxId) {
        let commands = lock(&self.running).remove(&id).unwrap_or_default();
        for command in commands.iter().filter_map(Weak::upgrade) {
            command.end(Outcome::Cancelled);
        }
    }
}

/// The number of "no such file or directory", the same on every architecture of Linux.
const ENOENT: i32 = 2;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exit(outcome: Outcome) -> Exit {
    Exit { outcome, dropped: 0, duration: Duration::ZERO, oom_kills: 0 }
}

impl SandboxFactory for Factory {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn prepare(
        &self,
        config: &SandboxConfig,
        _cancellation: &Cancellation,
        _deadline: Instant,
    ) -> Result<Box<dyn Sandbox>> {
        lock(&self.record).prepared += 1;
        Ok(self.sandbox(config))
    }

    fn start(
        &self,
        config: &SandboxConfig,
        _cancellation: &Cancellation,
        _deadline: Instant,
    ) -> Result<Box<dyn Sandbox>> {
        lock(&self.record).started += 1;
        Ok(self.sandbox(config))
    }
}

impl Factory {
    fn sandbox(&self, config: &SandboxConfig) -> Box<dyn Sandbox> {
        let (ended_tx, ended) = crossbeam_channel::bounded(0);
        lock(&self.ends).insert(config.id, ended_tx);
        Box::new(FakeSandbox {
            id: config.id,
            report: StartReport::default(),
            script: self.script.clone(),
            record: Arc::clone(&self.record),
            running: Arc::clone(&self.running),
            ends: Arc::clone(&self.ends),
            ended,
        })
    }
}

struct FakeSandbox {
    id: SandboxId,
    report: StartReport,
    script: Script,
    record: Arc<Mutex<Record>>,
    running: Arc<Mutex<Running>>,
    ends: Arc<Mutex<Ends>>,
    ended: Receiver<()>,
}

impl Sandbox for FakeSandbox {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn start_report(&self) -> &StartReport {
        &self.report
    }

    fn exec(&self, request: &ExecRequest, _deadline: Instant) -> Result<Box<dyn Execution>> {
        let missing = || {
            let message = "not in the script".to_owned();
            vec![Event::Exit(exit(Outcome::FailedToStart { code: 127, message }))]
        };
        let program = request.argv.first().cloned().unwrap_or_default();
        let manner = self.script.held.get(&program).copied();
        let room = self.script.input_limits.get(&program).copied().unwrap_or(usize::MAX);
        let answer = self
            .script
            .answers
            .get(&program)
            .map(|answer| (answer.clone(), request.clone(), Vec::new()));
        let work = self.script.works.get(&program).map(|work| (work.clone(), request.clone()));
        let mut act = self.script.acts.get(&program).map(|act| (act.clone(), request.clone()));
        if let Some((Act(act), request)) = act.take_if(|_| manner.is_none()) {
            act(&request, &mut lock(&self.record));
        }
        let events = self.script.commands.get(&program).cloned().unwrap_or_else(missing);
        let has_started = !matches!(
            events.first(),
            Some(Event::Exit(Exit { outcome: Outcome::FailedToStart { .. }, .. }))
        );
        let ending = Arc::new(Ending {
            events: Mutex::new(events.into()),
            more: Condvar::new(),
            wakes: Mutex::default(),
        });
        let mut running = lock(&self.running);
        let commands = running.entry(self.id).or_default();
        commands.push(Arc::downgrade(&ending));
        let pid = u32::try_from(commands.len()).ok().filter(|_| has_started);
        drop(running);
        // Last: a test that finds it in the record may make it print.
        lock(&self.record).execs.push(request.clone());
        Ok(Box::new(FakeExecution {
            pid,
            ending,
            manner,
            room: AtomicUsize::new(room),
            act: Mutex::new(act),
            answer: Mutex::new(answer),
            work: Mutex::new(work),
            record: Arc::clone(&self.record),
        }))
    }

    fn write(&self, request: &WriteRequest, _deadline: Instant) -> Result<Box<dyn TreeWriter>> {
        let (target, record) = (request.target.clone(), Arc::clone(&self.record));
        lock(&record).writes.push(request.clone());
        Ok(Box::new(FakeWriter { target, current: PathBuf::new(), record }))
    }

    fn read(&self, path: &Path, _deadline: Instant) -> Result<Box<dyn TreeReader>> {
        if let Some(items) = self.script.trees.get(path) {
            return Ok(Box::new(FakeReader(items.iter().rev().cloned().collect())));
        }
        let Some(data) = lock(&self.record).files.get(path).cloned() else {
            let source = "no such file".into();
            let path = path.display().to_string();
            return Err(crate::Error::Copy { path, errno: Some(ENOENT), source });
        };
        let kind = EntryKind::File { size: data.len() as u64 };
        let path = PathBuf::new();
        let entry = Entry { path, kind, mode: 0o644, owner: None, modified: None };
        Ok(Box::new(FakeReader(vec![TreeItem::Data(data), TreeItem::Entry(entry)])))
    }

    fn connect(&self, port: u16, _deadline: Instant) -> Result<UnixStream> {
        if !lock(&self.ends).contains_key(&self.id) {
            return Err(crate::Error::Connect { port, source: "the sandbox has ended".into() });
        }
        if !self.script.ports.contains(&port) {
            return Err(crate::Error::NothingListens { port });
        }
        let failed = |source: std::io::Error| crate::Error::Connect { port, source: source.into() };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        lock(&self.record).connections.push((port, theirs));
        Ok(ours)
    }

    fn assign(&self, config: &SandboxConfig, _deadline: Instant) -> Result<()> {
        if self.script.is_stubborn {
            let source = "it is stubborn".into();
            return Err(crate::Error::Assign { id: self.id.to_string(), source });
        }
        lock(&self.record).assigned.push((self.id, config.name.clone()));
        Ok(())
    }

    fn park(&self, _deadline: Instant) -> Result<()> {
        lock(&self.record).parked.push(self.id);
        Ok(())
    }

    fn set_network(&self, network: &Network, _deadline: Instant) -> Result<()> {
        lock(&self.record).networks.push(network.clone());
        Ok(())
    }

    fn ended(&self) -> Receiver<()> {
        self.ended.clone()
    }

    fn stop(self: Box<Self>, _deadline: Instant) -> Result<()> {
        Ok(())
    }

    fn kill(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for FakeSandbox {
    fn drop(&mut self) {
        lock(&self.ends).remove(&self.id);
        let commands = lock(&self.running).remove(&self.id).unwrap_or_default();
        commands.iter().filter_map(Weak::upgrade).for_each(|it| it.end(Outcome::Cancelled));
        lock(&self.record).ended += 1;
    }
}
