//! Starts VMs: by a boot, or from a snapshot that was saved before.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use netns::Pool;
use nix::fcntl::Flock;
use sandbox::{Event, ExecRequest, Sandbox, SandboxConfig, SandboxFactory};
use vsock_host::Reactor;

use crate::error::chain;
use crate::gate::{Gate, Held};
use crate::snapshot::{self, Key, Store};
use crate::supervisor::Task;
use crate::vm::Vm;
use crate::vmm::Vmm;
use crate::{Error, Result, folder};

/// Starts VMs of one kind.
pub struct Factory<V> {
    state: PathBuf,
    reactor: Reactor,
    networks: Option<Arc<Pool>>,
    /// None if they are not to be used.
    snapshots: Option<Store>,
    gate: Gate,
    vmm: Arc<V>,
}

impl<V: Vmm> Factory<V> {
    /// VMs of the kind `vmm`, with their folders under `state`, their guests served by `reactor`.
    pub fn new(state: &Path, reactor: &Reactor, vmm: V) -> Self {
        let snapshots = Some(Store::new(state));
        let (state, reactor) = (state.to_owned(), reactor.clone());
        let (gate, vmm) = (Gate::of_host(), Arc::new(vmm));
        Self { state, reactor, networks: None, snapshots, gate, vmm }
    }

    /// With networks for those VMs that are to have one.
    #[must_use]
    pub fn with_networks(self, networks: Option<Arc<Pool>>) -> Self {
        Self { networks, ..self }
    }

    /// Whose VMs boot even where there is a snapshot.
    #[must_use]
    pub fn without_snapshots(self) -> Self {
        Self { snapshots: None, ..self }
    }

    /// Starts a VM, lets `warm` do with it what the snapshot's VMs are to have done already, and saves
    /// it for later VMs of the same kind, in place of one that was saved before.
    ///
    /// 1. boot, when its turn has come: the deadline counts from then
    /// 2. warm up: any command, and what the caller wants
    /// 3. silence: file systems flushed, nothing under way on the guest link. The connection stays, and
    ///    is reset in each VM that goes on from here: that wakes its guest at once, while one that had
    ///    lost its host before would be in the middle of a wait
    /// 4. stop and save
    /// 5. publish
    pub fn save(
        &self,
        config: &SandboxConfig,
        warm: &mut Warm<'_>,
        deadline: Instant,
    ) -> Result<()> {
        let (store, _one) = self.lock_snapshots()?;
        self.save_in(store, config, warm, deadline)
    }

    /// The same, without a warm-up and only if there is no such snapshot. Of several who want one, one
    /// makes it. `false` if there was one.
    pub fn ensure_saved(&self, config: &SandboxConfig, deadline: Instant) -> Result<bool> {
        let is_there = |store: &Store| store.find(&*self.vmm, config).is_some();
        if self.snapshots.as_ref().is_some_and(is_there) {
            return Ok(false);
        }
        let (store, _one) = self.lock_snapshots()?;
        if is_there(store) {
            return Ok(false);
        }
        self.save_in(store, config, &mut |_| Ok(()), deadline).map(|()| true)
    }

    fn lock_snapshots(&self) -> Result<(&Store, Flock<File>)> {
        let none = || Error::NoSnapshots { kind: self.vmm.kind() };
        let store = self.snapshots.as_ref().ok_or_else(none)?;
        Ok((store, store.lock()?))
    }

    fn save_in(
        &self,
        store: &Store,
        config: &SandboxConfig,
        warm: &mut Warm<'_>,
        deadline: Instant,
    ) -> Result<()> {
        let none = || Error::NoSnapshots { kind: self.vmm.kind() };
        let key = Key::of(&*self.vmm, config).ok_or_else(none)?;
        // 1 Boot.
        let (turn, task) = self.turn(config, deadline)?;
        let deadline = task.deadline;
        let vm = Vm::start(task)?;
        drop(turn);
        // 2 Warm up.
        let failed = |source| Error::Warm { source };
        run_any_command(&vm, deadline).map_err(|error| failed(error.into()))?;
        warm(&vm).map_err(failed)?;
        // 3 Silence.
        vm.guest(deadline)?.quiesce(deadline).map_err(Error::Link)?;
        // 4 Save.
        if let Err(error) = vm.save(deadline) {
            return Err(vm.fail(error));
        }
        // 5 Publish.
        let monitors = folder::vms(&self.state).join(config.id.to_string()).join("vmm");
        store.publish(&key, &monitors)
    }

    /// Waits for a VM's turn to start, which it has until the first of these is dropped. What is left
    /// until the deadline counts from then.
    fn turn(&self, config: &SandboxConfig, deadline: Instant) -> Result<(Option<Held>, Task)> {
        let begun = Instant::now();
        let held = self.gate.enter(config.id, config.vcpus)?;
        let waited = begun.elapsed();
        let task = Task {
            state: self.state.clone(),
            config: config.clone(),
            vmm: Arc::clone(&self.vmm) as Arc<dyn Vmm>,
            reactor: self.reactor.clone(),
            networks: self.networks.clone(),
            snapshot: None,
            is_warm: false,
            waited,
            deadline: deadline + waited,
        };
        Ok((held, task))
    }

    /// Goes on from a snapshot if there is one that works, else boots. `start` is how.
    fn start_vm(
        &self,
        config: &SandboxConfig,
        deadline: Instant,
        start: fn(Task) -> Result<Vm>,
    ) -> Result<Vm> {
        let (_turn, task) = self.turn(config, deadline)?;
        let store = self.snapshots.as_ref();
        let found = store.and_then(|store| Some((store, store.find(&*self.vmm, config)?)));
        let Some((store, snapshot)) = found else { return start(task) };
        // Enough is left for a boot.
        let left = task.deadline.saturating_duration_since(Instant::now());
        let restore = Task {
            snapshot: Some(snapshot.clone()),
            deadline: Instant::now() + left / 3,
            ..task.clone()
        };
        match start(restore) {
            Ok(vm) => {
                snapshot.acquit();
                Ok(vm)
            }
            Err(error) if snapshot::is_to_blame(&error) => {
                log::warn!("no vm came out of a snapshot, so it boots; vm={}", config.id);
                if !snapshot::is_late(&error) || snapshot.is_late_again() {
                    store.set_aside(&snapshot, &chain(&error));
                } else {
                    log::warn!("the snapshot has another chance; reason={}", chain(&error));
                }
                start(task)
            }
            Err(error) if snapshot::is_gone(&error) => start(task),
            Err(error) => Err(error),
        }
    }
}

/// Brings into a guest's memory what every command needs: the loader, the C library. An image without
/// `true` is no worse for it.
fn run_any_command(vm: &Vm, deadline: Instant) -> sandbox::Result<()> {
    let request = ExecRequest { argv: vec!["true".into()], ..ExecRequest::default() };
    let command = vm.exec(&request, deadline)?;
    while let Event::Output(..) = command.next(Some(deadline))? {}
    Ok(())
}

/// What is done in a VM before it is saved.
pub type Warm<'a> = dyn FnMut(&dyn Sandbox) -> std::result::Result<(), sandbox::Cause> + 'a;

impl<V: Vmm> SandboxFactory for Factory<V> {
    fn kind(&self) -> &'static str {
        self.vmm.kind()
    }

    fn start(
        &self,
        config: &SandboxConfig,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn Sandbox>> {
        boxed(config, self.start_vm(config, deadline, Vm::start))
    }

    fn make_ready(&self, config: &SandboxConfig, deadline: Instant) -> sandbox::Result<()> {
        if self.snapshots.is_none() || self.vmm.snapshot_identity().is_none() {
            return Ok(());
        }
        let saved = self.ensure_saved(config, deadline).map(drop);
        saved.map_err(not_started(config))
    }

    fn prepare(
        &self,
        config: &SandboxConfig,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn Sandbox>> {
        boxed(config, self.start_vm(config, deadline, Vm::prepare))
    }
}

fn boxed(config: &SandboxConfig, started: Result<Vm>) -> sandbox::Result<Box<dyn Sandbox>> {
    Ok(Box::new(started.map_err(not_started(config))?))
}

fn not_started(config: &SandboxConfig) -> impl FnOnce(Error) -> sandbox::Error {
    let id = config.id.to_string();
    move |error| sandbox::Error::Start { id, source: error.into() }
}
